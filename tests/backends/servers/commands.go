package servers

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// Credentials of the servers that ask for some. Azurite's are the published ones of every emulator of Azure.
const (
	S3AccessKey = "test-access"
	S3SecretKey = "test-secret-0f3b2a9c"
	S3Region    = "us-east-1"

	AzureAccount = "devstoreaccount1"
	AzureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

func (s *Server) s3() ([]string, error) {
	program, err := installed("bin", "versitygw")
	if err != nil {
		return nil, err
	}
	data, meta := filepath.Join(s.Dir, "data"), filepath.Join(s.Dir, "meta")
	for _, dir := range []string{data, meta} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	// Metadata in a folder of their own: not every file system of a test has extended attributes.
	return []string{
		program, "--access", S3AccessKey, "--secret", S3SecretKey, "--region", S3Region, "--port", s.Addr, "--keep-alive",
		"--quiet", "posix", "--sidecar", meta, data,
	}, nil
}

func (s *Server) gcs() ([]string, error) {
	program, err := installed("bin", "fake-gcs-server")
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(s.Addr)
	return []string{
		program, "-scheme", "http", "-host", host, "-port", port, "-backend", "filesystem",
		"-filesystem-root", filepath.Join(s.Dir, "data"), "-log-level", "error",
	}, nil
}

func (s *Server) azure() ([]string, error) {
	node, err := found("node")
	if err != nil {
		return nil, err
	}
	script, err := installed("azurite", "node_modules", ".bin", "azurite-blob")
	if err != nil {
		return nil, err
	}
	host, port, _ := net.SplitHostPort(s.Addr)
	return []string{
		node, script, "--blobHost", host, "--blobPort", port, "--location", filepath.Join(s.Dir, "data"), "--silent",
		"--skipApiVersionCheck", "--disableTelemetry",
	}, nil
}

func (s *Server) hdfs() ([]string, error) {
	java, err := found("java")
	if err != nil {
		return nil, err
	}
	jars, err := installed("hdfs", "lib")
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(s.Addr)
	return []string{
		java, "-Xmx256m", "-cp", filepath.Join(jars, "*"), filepath.Join(source(), "hdfs", "Serve.java"),
		filepath.Join(s.Dir, "data"), port, s.DataBehind,
	}, nil
}

// placeData chooses where HDFS serves data. It tells its clients the address from which its data node reached its name
// node, with the data node's port: so one that listens at that port of another loopback address has the clients of the
// first come through whoever listens there.
func (s *Server) placeData(relay bool) error {
	addr, err := freeAddr("127.0.0.1")
	if err != nil {
		return err
	}
	s.Data, s.DataBehind = addr, addr
	if relay {
		_, port, _ := net.SplitHostPort(addr)
		s.DataBehind = net.JoinHostPort("127.0.0.2", port)
	}
	return nil
}

// nginx serves the folders below data/, with index pages.
const nginxConfig = `
worker_processes 1;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events { worker_connections 512; }
http {
    access_log off;
    types { application/x-tar tar; text/plain txt; application/json json; text/html html; }
    default_type application/octet-stream;
    client_body_temp_path %[1]s/tmp;
    proxy_temp_path %[1]s/tmp;
    fastcgi_temp_path %[1]s/tmp;
    uwsgi_temp_path %[1]s/tmp;
    scgi_temp_path %[1]s/tmp;
    server {
        listen %[2]s;
        root %[1]s/data;
        location / { autoindex on; autoindex_exact_size on; }
    }
}
`

func (s *Server) http() ([]string, error) {
	program, err := found("nginx")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(s.Dir, "data"), 0o750); err != nil {
		return nil, err
	}
	config := filepath.Join(s.Dir, "nginx.conf")
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // its workers read what the tests write, in folders of the tests alone
	}
	text := user + strings.TrimSpace(fmt.Sprintf(nginxConfig, s.Dir, s.Addr)) + "\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return []string{
		program, "-p", s.Dir, "-c", config, "-e", filepath.Join(s.Dir, "error.log"), "-g", "daemon off;",
	}, nil
}
