// Package enginetest lets tests run containers by a real engine: it makes what this machine needs for that, and an image
// whose program behaves as it is told to. Tests are skipped, with a reason, where there is no engine.
package enginetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Missing is an image that is nowhere, and whose registry refuses at once.
const Missing = "127.0.0.1:1/shardstream/none:latest"

const (
	image        = "localhost/shardstream-etl-test:latest"
	buildTimeout = 3 * time.Minute
)

var shared struct {
	once sync.Once
	dir  string // of the program and the unpacked bundle
	skip string
	err  error
}

// Image is the name of the test program's image. The test is skipped where podman does not run containers.
func Image(t testing.TB) string {
	t.Helper()
	ready(t)
	return image
}

// Program is the test program's binary, which is also what the image holds.
func Program(t testing.TB) string {
	t.Helper()
	ready(t)
	return filepath.Join(shared.dir, "program")
}

// Bundle is the test program as an unpacked image, "bundle:/path". The test is skipped where runc does not run.
func Bundle(t testing.TB) string {
	t.Helper()
	ready(t)
	dir := t.TempDir()
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(filepath.Join(root, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"proc", "sys", "dev", "run/shardstream"} {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(shared.dir, "program"))
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "program"), data, 0o755)
	}
	if err == nil {
		var out []byte
		if out, err = exec.Command("runc", "spec", "--bundle", dir).CombinedOutput(); err != nil {
			t.Skipf("runc does not work here: %v: %s", err, out)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return "bundle:" + dir
}

func ready(t testing.TB) {
	t.Helper()
	shared.once.Do(prepare)
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
}

func prepare() {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	if _, err := exec.LookPath("podman"); err != nil {
		shared.skip = "podman is not installed: no container can be run"
		return
	}
	if shared.dir, shared.err = os.MkdirTemp("", "shardstream-enginetest-"); shared.err != nil {
		return
	}
	if shared.err = os.Chmod(shared.dir, 0o755); shared.err != nil { // sandboxed programs are no longer root
		return
	}
	if err := configure(); err != nil {
		shared.err = err
		return
	}
	if shared.err = build(ctx); shared.err != nil {
		return
	}
	out, err := exec.CommandContext(ctx, "podman", "run", "--rm", "--network", "none", image, "exit", "0").CombinedOutput()
	if err != nil {
		shared.skip = fmt.Sprintf("podman runs no container on this machine: %v: %s", err, out)
	}
}

// configure points podman to runc where that is there: in places where crun can't run, for want of the right to raise
// limits, runc does, if the defaults that podman wants to raise are lowered too.
func configure() error {
	if _, set := os.LookupEnv("CONTAINERS_CONF"); set {
		return nil
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return nil //nolint:nilerr // podman has another runtime then
	}
	conf := filepath.Join(shared.dir, "containers.conf")
	const text = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n[engine]\nruntime = \"runc\"\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Setenv("CONTAINERS_CONF", conf)
}

// build makes the program and its image. The same source makes the same image.
func build(ctx context.Context) error {
	_, file, _, _ := runtime.Caller(0)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(shared.dir, "program"), "./program")
	cmd.Dir = filepath.Dir(file)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the test program: %w: %s", err, out)
	}
	containerfile := filepath.Join(shared.dir, "Containerfile")
	text := "FROM scratch\nCOPY program /program\nENTRYPOINT [\"/program\"]\nCMD [\"serve\"]\n"
	if err := os.WriteFile(containerfile, []byte(text), 0o600); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "podman", "build", "--quiet", "--network", "none", "--timestamp", "0", "--tag", image, "--file", containerfile, shared.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the test image: %w: %s", err, out)
	}
	return nil
}

var cleanups []func()

// Cleanup has f called when Main is done.
func Cleanup(f func()) { cleanups = append(cleanups, f) }

// Main runs a package's tests and removes what this package has made.
func Main(m *testing.M) {
	code := m.Run()
	for _, f := range cleanups {
		f()
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

// Containers are the names of the containers of this machine that begin with a prefix, running or not.
func Containers(t testing.TB, prefix string) []string {
	t.Helper()
	out, err := exec.Command("podman", "ps", "--all", "--format", "{{.Names}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range strings.Fields(string(out)) {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	return names
}

// Kill kills a running container.
func Kill(t testing.TB, name string) {
	t.Helper()
	if out, err := exec.Command("podman", "kill", name).CombinedOutput(); err != nil {
		t.Fatalf("podman kill %s: %v: %s", name, err, out)
	}
}
