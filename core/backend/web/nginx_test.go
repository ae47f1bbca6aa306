package web_test

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/core/backend/web"
)

const configuration = `
daemon off; worker_processes 1; error_log DIR/error.log; pid DIR/pid;
events { worker_connections 256; }
http {
  access_log off; etag on;
  client_body_temp_path DIR/tmp; proxy_temp_path DIR/tmp; fastcgi_temp_path DIR/tmp; uwsgi_temp_path DIR/tmp; scgi_temp_path DIR/tmp;
  server {
    listen 127.0.0.1:PORT;
    root DIR/files;
    location / { autoindex on; }
    location /json/ { alias DIR/files/; autoindex on; autoindex_format json; }
    location /secret/ { alias DIR/files/; autoindex on; auth_basic "x"; auth_basic_user_file DIR/users; }
  }
}
`

// nginx runs a server over a directory of files, as long as the test.
func nginx(t *testing.T) (address, files string) {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("nginx is not installed")
	}
	dir, err := os.MkdirTemp("", "nginx") // of a short name, that workers can read
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	files = filepath.Join(dir, "files")
	for _, d := range []string{files, filepath.Join(dir, "tmp")} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address = listener.Addr().String()
	require.NoError(t, listener.Close())
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	text := strings.NewReplacer("DIR", dir, "PORT", port).Replace(configuration)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(text), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "users"), []byte("reader:{PLAIN}right\n"), 0o644))
	output, err := os.Create(filepath.Join(dir, "output"))
	require.NoError(t, err)
	command := exec.Command(program, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", filepath.Join(dir, "error.log"))
	command.Stdout, command.Stderr = output, output
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
		_ = output.Close()
	})
	require.Eventually(t, func() bool {
		connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		if err == nil {
			_ = connection.Close()
		}
		return err == nil
	}, 20*time.Second, 10*time.Millisecond, "nginx does not answer")
	return address, files
}

func seed(t *testing.T, files string, objects map[string][]byte) {
	t.Helper()
	for name, data := range objects {
		path := filepath.Join(files, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, data, 0o644))
	}
}

func open(t *testing.T, address string, credentials map[string]string) backend.Backend {
	t.Helper()
	a, err := backend.ParseAddress(address)
	require.NoError(t, err)
	b, err := web.Open(t.Context(), backend.Config{Address: a, Credentials: credentials})
	require.NoError(t, err)
	return b
}

func TestConformance(t *testing.T) {
	address, files := nginx(t)
	right := map[string]string{"username": "reader", "password": "right"}
	for name, below := range map[string]string{"html": "/", "json": "/json/", "password": "/secret/"} {
		t.Run(name, func(t *testing.T) {
			target := backendtest.Target{
				Odd: slices.DeleteFunc(slices.Clone(backendtest.OddNames), func(name string) bool { return name[0] == '.' }), // not listed
				Open: func(t *testing.T, prefix string) backend.Backend {
					t.Helper()
					return open(t, "http://"+address+below+(&url.URL{Path: prefix}).EscapedPath(), right)
				},
				Seed: func(t *testing.T, prefix string, objects map[string][]byte) {
					t.Helper()
					require.NoError(t, os.MkdirAll(filepath.Join(files, prefix), 0o755))
					for name, data := range objects {
						seed(t, files, map[string][]byte{prefix + "/" + name: data})
					}
				},
			}
			if name == "password" {
				target.Names = 200
				target.Denied = func(t *testing.T) backend.Backend {
					t.Helper()
					return open(t, "http://"+address+below, map[string]string{"username": "reader", "password": "wrong"})
				}
			}
			backendtest.Run(t, target)
		})
	}
}

func TestNginxChanges(t *testing.T) {
	address, files := nginx(t)
	seed(t, files, map[string][]byte{"d/a": []byte("first")})
	b := open(t, "http://"+address+"/d", nil)
	old, err := b.Stat(t.Context(), "a")
	require.NoError(t, err)
	seed(t, files, map[string][]byte{"d/a": []byte("the second")})
	for _, o := range []backend.OpenOptions{{Tag: old.Tag}, {Tag: old.Tag, Offset: 1, Length: 2}} {
		_, err = b.Open(t.Context(), "a", o)
		require.Equal(t, backend.Changed, backend.KindOf(err), "%v", err)
	}
	require.NoError(t, os.RemoveAll(filepath.Join(files, "d")))
	for _, prefix := range []string{"", "x/", "x"} {
		for _, err := range b.List(t.Context(), prefix, "") {
			require.Equal(t, backend.NoBucket, backend.KindOf(err), "%v", err)
		}
	}
}

func TestNginxTemplate(t *testing.T) {
	address, files := nginx(t)
	for i := range 12 {
		seed(t, files, map[string][]byte{fmt.Sprintf("data/train-%03d.tar", i): []byte(fmt.Sprint(i))})
	}
	b := open(t, "http://"+address+"/data/train-{000..011}.tar", nil)
	require.Len(t, list(t, b, "", ""), 12)
	require.Equal(t, []string{"train-010.tar", "train-011.tar"}, list(t, b, "train-0", "train-009.tar"))
	_, err := b.Stat(t.Context(), "train-012.tar")
	require.Equal(t, backend.NotFound, backend.KindOf(err))

	b = open(t, "http://"+address+"/data/train-{000..012}.tar", nil)
	var last error
	for _, err := range b.List(t.Context(), "", "") {
		last = err
	}
	require.ErrorContains(t, last, "train-012.tar")
	require.ErrorContains(t, last, "not there")
}

func list(t *testing.T, b backend.Backend, prefix, after string) []string {
	t.Helper()
	var names []string
	for e, err := range b.List(t.Context(), prefix, after) {
		require.NoError(t, err)
		names = append(names, e.Name)
	}
	return names
}
