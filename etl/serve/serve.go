// Package serve makes a function the server of an ETL container, or one that a node is told the URL of:
//
//	func main() {
//		err := serve.Run(func(_ context.Context, r io.Reader, w io.Writer, _ serve.Args) error {
//			_, err := io.Copy(w, hex.NewDecoder(r))
//			return err
//		})
//		if err != nil {
//			panic(err)
//		}
//	}
//
// Objects come by PUT, or by GET, for which the server reads them from the node; samples by POST /samples, as package
// samples has it. Where it listens the environment says: at the Unix socket SHARDSTREAM_SOCKET, else at
// SHARDSTREAM_LISTEN (HOST:PORT), else at port PORT of all interfaces, else at 127.0.0.1:8000. Objects are read from
// SHARDSTREAM_TARGET_URL. Python's twin is shardstream.etl.
package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/shardstream/shardstream/etl"
)

const (
	defaultAddress = "127.0.0.1:8000"
	defaultSample  = 1 << 30
	grace          = 8 * time.Second // container engines kill 10 s after SIGTERM
	headTimeout    = 30 * time.Second
	idleTimeout    = 5 * time.Minute
)

// Args are the arguments of a request: a JSON object, or nothing.
type Args json.RawMessage

// Into sets the fields of a struct from the arguments; one that the struct does not have is an error, which the caller
// of the function returns as it is. Without arguments the struct keeps its defaults.
func (a Args) Into(v any) error {
	if len(a) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(a))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return &argsError{err}
	}
	return nil
}

// argsError says that a request's arguments are not the function's.
type argsError struct{ err error }

func (e *argsError) Error() string { return "the arguments do not fit: " + e.err.Error() }
func (e *argsError) Unwrap() error { return e.err }

// Object reads an object and writes what becomes of it, at once or bit by bit. An error before much was written is the
// answer, a later one breaks the answer off: in no case it looks whole.
type Object func(ctx context.Context, r io.Reader, w io.Writer, args Args) error

// Sample changes a sample in place. An error is that sample's alone.
type Sample func(ctx context.Context, s *etl.Sample, args Args) error

// Batch transforms samples together and returns one for each, in their order. An error is that of all of them.
type Batch func(ctx context.Context, in []etl.Sample, args Args) ([]etl.Sample, error)

// Server serves one of Object, Sample and Batch.
type Server struct {
	Object Object
	Sample Sample
	Batch  Batch

	Address     string // HOST:PORT or the path of a Unix socket; by default what the environment says
	Target      string // URL of the node's objects; SHARDSTREAM_TARGET_URL by default
	ContentType string // of transformed objects; application/octet-stream by default
	MaxSample   int64  // bytes of a sample, and of a batch; 1 GiB by default
}

// Run serves an object-level function until SIGTERM or SIGINT. Requests that are under way are answered before it
// returns.
func Run(f Object) error { return (&Server{Object: f}).run() }

// Samples serves a sample-level function, as Run does.
func Samples(f Sample) error { return (&Server{Sample: f}).run() }

func (s *Server) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return s.Run(ctx)
}

// Run serves until ctx ends, and then answers what is under way.
func (s *Server) Run(ctx context.Context) error {
	handler, err := s.Handler()
	if err != nil {
		return err
	}
	listener, err := listen(ctx, s.address())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err = server.Shutdown(ending)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close() // a function that takes longer loses its request
	}
	if ended := <-failed; !errors.Is(ended, http.ErrServerClosed) {
		return ended
	}
	return err
}

// Handler is what Run serves, for servers of one's own.
func (s *Server) Handler() (http.Handler, error) {
	given := 0
	for _, there := range []bool{s.Object != nil, s.Sample != nil, s.Batch != nil} {
		if there {
			given++
		}
	}
	if given != 1 {
		return nil, errors.New("serve: set one of Object, Sample and Batch")
	}
	h := &handler{Server: *s}
	if h.Target == "" {
		h.Target = os.Getenv("SHARDSTREAM_TARGET_URL")
	}
	h.Target = strings.TrimRight(h.Target, "/")
	if h.ContentType == "" {
		h.ContentType = "application/octet-stream"
	}
	if h.MaxSample <= 0 {
		h.MaxSample = defaultSample
	}
	// The node is near, whatever proxies the environment names.
	h.client = &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: headTimeout}).DialContext, ResponseHeaderTimeout: idleTimeout,
		MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Second, DisableCompression: true,
	}}
	return h, nil
}

func (s *Server) address() string {
	if s.Address != "" {
		return s.Address
	}
	for _, name := range []string{"SHARDSTREAM_SOCKET", "SHARDSTREAM_LISTEN"} {
		if address := os.Getenv(name); address != "" {
			return address
		}
	}
	if port := os.Getenv("PORT"); port != "" {
		return ":" + port // by convention that of a container, reached from outside
	}
	return defaultAddress
}

// listen listens at a path, which begins with a slash, or at HOST:PORT.
func listen(ctx context.Context, address string) (net.Listener, error) {
	var config net.ListenConfig
	if !strings.HasPrefix(address, "/") {
		return config.Listen(ctx, "tcp", address)
	}
	if info, err := os.Stat(address); err == nil && info.Mode().Type() == os.ModeSocket {
		_ = os.Remove(address) // an earlier process left it there
	}
	listener, err := config.Listen(ctx, "unix", address)
	if err != nil {
		return nil, err
	}
	// The node may be another user than the container; the directory says who gets here.
	if err := os.Chmod(address, 0o666); err != nil { //nolint:gosec // see above
		_ = listener.Close()
		return nil, fmt.Errorf("listening at %s: %w", address, err)
	}
	return listener, nil
}
