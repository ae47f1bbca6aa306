// Package environmenttest makes small Python packages for tests, and a folder that pip takes for its index, so that
// no test needs a network.
package environmenttest

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Index is a folder of packages.
type Index struct {
	Dir string
	t   testing.TB
}

// New makes an empty index and points pip at it, and at nothing else, for the rest of the test.
func New(t testing.TB) *Index {
	t.Helper()
	x := &Index{Dir: t.TempDir(), t: t}
	setenv(t, map[string]string{"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": x.Dir, "PIP_CONFIG_FILE": os.DevNull, "PIP_RETRIES": "0"})
	return x
}

func setenv(t testing.TB, env map[string]string) {
	t.Helper()
	for name, value := range env {
		t.Setenv(name, value)
	}
}

// Wheel adds a package of one module with its name. requires are its own requirements.
func (x *Index) Wheel(name, version, source string, requires ...string) {
	x.t.Helper()
	info := name + "-" + version + ".dist-info/"
	files := map[string]string{
		name + ".py":      source,
		info + "METADATA": metadata(name, version, requires),
		info + "WHEEL":    "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
	}
	var record strings.Builder
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	add := func(path, content string) {
		f, err := w.Create(path)
		if err == nil {
			_, err = f.Write([]byte(content))
		}
		if err != nil {
			x.t.Fatal(err)
		}
		fmt.Fprintf(&record, "%s,,\n", path)
	}
	for path, content := range files {
		add(path, content)
	}
	record.WriteString(info + "RECORD,,\n")
	add(info+"RECORD", record.String())
	if err := w.Close(); err != nil {
		x.t.Fatal(err)
	}
	x.write(fmt.Sprintf("%s-%s-py3-none-any.whl", name, version), b.Bytes())
}

func metadata(name, version string, requires []string) string {
	m := fmt.Sprintf("Metadata-Version: 2.1\nName: %s\nVersion: %s\n", name, version)
	for _, r := range requires {
		m += "Requires-Dist: " + r + "\n"
	}
	return m
}

// Broken adds a package whose build fails with the given message.
func (x *Index) Broken(name, version, message string) {
	x.t.Helper()
	x.sdist(name, version, fmt.Sprintf("raise RuntimeError(%q)\n", message))
}

// Gated adds a package whose build goes on until Open is called for it. The module has VERSION.
func (x *Index) Gated(name, version string) {
	x.t.Helper()
	x.sdist(name, version, fmt.Sprintf(`
import os, time, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    while not os.path.exists(%[1]q):
        time.sleep(0.02)
    name = "%[2]s-%[3]s-py3-none-any.whl"
    info = "%[2]s-%[3]s.dist-info/"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as z:
        z.writestr("%[2]s.py", "VERSION = '%[3]s'\n")
        z.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: %[2]s\nVersion: %[3]s\n")
        z.writestr(info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(info + "RECORD", "%[2]s.py,,\n")
    return name
`, x.gate(name), name, version))
}

// Open lets the builds of a gated package finish.
func (x *Index) Open(name string) {
	x.t.Helper()
	if err := os.WriteFile(x.gate(name), nil, 0o600); err != nil {
		x.t.Fatal(err)
	}
}

func (x *Index) gate(name string) string { return filepath.Join(x.Dir, name+".open") }

// sdist adds a source package that builds itself with the given backend.
func (x *Index) sdist(name, version, backend string) {
	x.t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	root := name + "-" + version + "/"
	for path, content := range map[string]string{
		"PKG-INFO":       metadata(name, version, nil),
		"pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n",
		"backend.py":     backend,
	} {
		if err := w.WriteHeader(&tar.Header{Name: root + path, Mode: 0o644, Size: int64(len(content))}); err != nil {
			x.t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			x.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		x.t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		x.t.Fatal(err)
	}
	x.write(root[:len(root)-1]+".tar.gz", b.Bytes())
}

func (x *Index) write(name string, content []byte) {
	x.t.Helper()
	if err := os.WriteFile(filepath.Join(x.Dir, name), content, 0o644); err != nil { //nolint:gosec // builds of another user read it
		x.t.Fatal(err)
	}
}
