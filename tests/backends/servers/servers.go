// Package servers runs the real servers that the tests of backends need, as processes of this machine that only this
// machine reaches. `make backends` installs them.
package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/shardstream/shardstream/core/backend"
)

// readyTimeout is how long a server may take until it answers: the JVM of HDFS on a machine that is busy.
const readyTimeout = 2 * time.Minute

// ErrMissing says that a server is not installed here.
var ErrMissing = errors.New("not installed")

// Kinds are the schemes whose servers this package runs.
var Kinds = []string{backend.S3, backend.GCS, backend.Azure, backend.HDFS, backend.HTTP}

// Server is a server that runs. Origin gives its buckets as their owner has them: past any cluster that caches them. That
// of another cluster is started by whoever has one, and has nothing but its kind and address here.
type Server struct {
	Kind string
	Addr string // host:port at which it answers
	Dir  string
	// Data is where the data of HDFS come from: clients are sent to Data, the server listens at DataBehind. They are the
	// same unless Options.Relay is set.
	Data, DataBehind string

	stdin   io.Closer // its end is the server's
	command *exec.Cmd
	ended   chan struct{}
}

// Options of Start.
type Options struct {
	// Relay makes HDFS send its clients to an address at which the caller relays to the server.
	Relay bool
}

// Start starts the server of a scheme with its data in dir, an empty folder, and waits until it answers.
func Start(ctx context.Context, kind, dir string, o Options) (*Server, error) {
	addr, err := freeAddr("127.0.0.1")
	if err != nil {
		return nil, err
	}
	s := &Server{Kind: kind, Addr: addr, Dir: dir}
	if kind == backend.HDFS {
		if err := s.placeData(o.Relay); err != nil {
			return nil, err
		}
	}
	command, err := s.commandOf()
	if err != nil {
		return nil, fmt.Errorf("the server for %s://: %w", kind, err)
	}
	if err := s.run(command); err != nil {
		return nil, err
	}
	if err := s.await(ctx); err != nil {
		_ = s.Stop()
		return nil, err
	}
	return s, nil
}

// commandOf is the command that runs the server; it prepares what that needs.
func (s *Server) commandOf() ([]string, error) {
	switch s.Kind {
	case backend.S3:
		return s.s3()
	case backend.GCS:
		return s.gcs()
	case backend.Azure:
		return s.azure()
	case backend.HDFS:
		return s.hdfs()
	case backend.HTTP:
		return s.http()
	}
	return nil, fmt.Errorf("there is none")
}

// run starts a command that ends, at the latest, with this process: a shell holds it that reads from a pipe of ours.
func (s *Server) run(command []string) error {
	const held = `"$@" </dev/null & pid=$!; read -r _; kill "$pid"; wait "$pid"`
	log, err := os.Create(s.logPath())
	if err != nil {
		return err
	}
	defer log.Close()
	s.command = exec.Command("sh", append([]string{"-c", held, "sh"}, command...)...)
	s.command.Dir = s.Dir
	s.command.Stdout, s.command.Stderr = log, log
	if s.stdin, err = s.command.StdinPipe(); err != nil {
		return err
	}
	if err := s.command.Start(); err != nil {
		return err
	}
	s.ended = make(chan struct{})
	go func() { // ends with the process
		_ = s.command.Wait()
		close(s.ended)
	}()
	return nil
}

// await waits until the server answers.
func (s *Server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := s.answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("the server for %s:// ended at once: %s", s.Kind, s.Log())
		case <-ctx.Done():
			return fmt.Errorf("the server for %s:// does not answer: %w; it says: %s", s.Kind, err, s.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answers asks the server once. Any answer will do: whether a client is let in is for the tests.
func (s *Server) answers(ctx context.Context) error {
	if s.Kind == backend.HDFS {
		if !bytes.Contains([]byte(s.Log()), []byte("ready\n")) {
			return errors.New("it is not ready yet")
		}
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr+"/", nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

// Stop ends the server and waits for it.
func (s *Server) Stop() error {
	_ = s.stdin.Close()
	select {
	case <-s.ended:
		return nil
	case <-time.After(30 * time.Second):
		_ = s.command.Process.Kill()
		return fmt.Errorf("the server for %s:// does not end", s.Kind)
	}
}

// Log is the end of what the server has said.
func (s *Server) Log() string {
	content, _ := os.ReadFile(s.logPath())
	return string(content[max(0, len(content)-4096):])
}

func (s *Server) logPath() string { return filepath.Join(s.Dir, "server.log") }

// installed finds what `make backends` has installed.
func installed(elements ...string) (string, error) {
	folder := os.Getenv("SHARDSTREAM_BACKENDS")
	if folder == "" {
		folder = filepath.Join(source(), "..", "..", "..", "build", "backends")
	}
	path := filepath.Join(append([]string{folder}, elements...)...)
	if _, err := os.Stat(path); err != nil { //nolint:gosec // where servers are is the developer's choice
		return "", fmt.Errorf("%w: run `make backends` (%s)", ErrMissing, strings.Join(elements, "/"))
	}
	return path, nil
}

// found finds a program of the system.
func found(program string) (string, error) {
	for _, folder := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		path := filepath.Join(folder, program)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 { //nolint:gosec // as exec.LookPath does
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: there is no %s (`make backends` says what to install)", ErrMissing, program)
}

// source is the folder of this file.
func source() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(file)
}

func freeAddr(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
