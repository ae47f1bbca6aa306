// Package hdfs reads and writes files of Hadoop's file system: hdfs://HOST:PORT/PATH, where HOST:PORT is a namenode's, or
// several, separated by commas, of which one is active. Objects are the files below PATH.
//
// Fields of a secret: user (otherwise HADOOP_USER_NAME, or the one that the node runs as), and for Kerberos principal
// (USER@REALM), keytab (in base64), service_principal (nn/_HOST) and protection (authentication, integrity or privacy).
// Where the KDCs are is in the node's krb5.conf.
package hdfs

import (
	"context"
	"errors"
	"net"
	"os"
	"os/user"
	"strings"
	"sync"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/shardstream/shardstream/core/backend"
)

const defaultPort = "8020"

// Files are the files below a path.
type Files struct {
	address backend.Address
	root    string // ends with a slash
	config  backend.Config
	options hdfs.ClientOptions

	calls sync.WaitGroup // goroutines that a caller may have left

	mu      sync.Mutex
	current *client // nil: to be connected
	closed  bool
	swept   map[string]time.Time // directories, and when what puts had left there was looked for
}

// client is a connection to a namenode. The library leaves it unusable after some errors, so it is replaced after all
// but those that the namenode has answered.
type client struct {
	*hdfs.Client
	mu          sync.Mutex
	connections []net.Conn // to the namenode
	refused     error      // why the last one could not be made
	retired     bool
	closing     sync.Once
}

// Open opens a path.
func Open(_ context.Context, c backend.Config) (backend.Backend, error) {
	if err := c.CheckFields("user", "principal", "keytab", "service_principal", "protection"); err != nil {
		return nil, err
	}
	f := &Files{address: c.Address, root: "/" + c.Prefix(), config: c}
	for host := range strings.SplitSeq(c.Host, ",") {
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), defaultPort)
		}
		f.options.Addresses = append(f.options.Addresses, host)
	}
	f.options.User = userName(c.Credentials["user"])
	f.options.DatanodeDialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		return f.dial(ctx, network, address)
	}
	if err := signIn(&f.options, c); err != nil {
		return nil, f.fail("connect", "", backend.Denied, err)
	}
	return f, nil
}

func userName(name string) string {
	if name == "" {
		name = os.Getenv("HADOOP_USER_NAME")
	}
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	if name == "" {
		name = "hdfs"
	}
	return name
}

func (f *Files) fail(op, name string, kind backend.Kind, err error) *backend.Error {
	return &backend.Error{Backend: f.address.String(), Op: op, Name: name, Kind: kind, Err: err}
}

// dial makes a connection that fails when the other end says nothing for too long: the library knows no contexts.
func (f *Files) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dial := f.config.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	}
	connection, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	patience := f.config.Timeout
	if patience <= 0 {
		patience = 30 * time.Second
	}
	return &impatient{connection, patience}, nil
}

type impatient struct {
	net.Conn
	patience time.Duration
}

func (i *impatient) Read(p []byte) (int, error) {
	if err := i.SetReadDeadline(time.Now().Add(i.patience)); err != nil {
		return 0, err
	}
	return i.Conn.Read(p)
}

func (i *impatient) Write(p []byte) (int, error) {
	if err := i.SetWriteDeadline(time.Now().Add(i.patience)); err != nil {
		return 0, err
	}
	return i.Conn.Write(p)
}

// connect is the connection to the namenode, made where there is none.
func (f *Files) connect() (*client, error) {
	f.mu.Lock()
	c, closed := f.current, f.closed
	f.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	if c != nil {
		return c, nil
	}
	c = &client{}
	options := f.options
	options.NamenodeDialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		connection, err := f.dial(ctx, network, address)
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case err != nil:
			c.refused = err
			return nil, err
		case c.retired: // the library would connect again and again
			return nil, errors.Join(net.ErrClosed, connection.Close())
		}
		c.connections = append(c.connections, connection)
		return connection, nil
	}
	var err error
	if c.Client, err = hdfs.NewClient(options); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.refused != nil { // the library keeps but the text
			return nil, c.refused
		}
		return nil, err
	}
	// The library keeps the answer without a lock: from here on calls at the same time only read it.
	if _, err = c.Client.ServerDefaults(); err != nil {
		return nil, errors.Join(err, c.Client.Close())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.current != nil { // another was quicker
		f.retire(c)
		if f.closed {
			return nil, net.ErrClosed
		}
		return f.current, nil
	}
	f.current = c
	return c, nil
}

// retire closes a connection, without waiting for calls that hang in it. f.mu is held.
func (f *Files) retire(c *client) {
	if f.current == c {
		f.current = nil
	}
	c.closing.Do(func() {
		c.mu.Lock()
		c.retired = true
		for _, connection := range c.connections {
			_ = connection.Close()
		}
		c.mu.Unlock()
		f.calls.Go(func() { _ = c.Client.Close() })
	})
}

// do makes a call, and returns when the context ends, wherever the call is then: its connection gives up by itself.
func (f *Files) do(ctx context.Context, op, name string, call func(*client) error) error {
	if ctx.Err() != nil {
		return f.fail(op, name, backend.Failed, context.Cause(ctx))
	}
	done := make(chan error, 1)
	f.calls.Go(func() {
		c, err := f.connect()
		if err == nil {
			err = call(c)
			f.after(c, err)
		}
		done <- err
	})
	select {
	case err := <-done:
		return f.typed(ctx, op, name, err)
	case <-ctx.Done():
		return f.fail(op, name, backend.Failed, context.Cause(ctx))
	}
}

// after replaces a connection that may be broken.
func (f *Files) after(c *client, err error) {
	var own *backend.Error
	if err == nil || answered(err) || errors.As(err, &own) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retire(c)
}

// remote is an exception of a namenode or datanode.
func remote(err error) hdfs.Error {
	var e hdfs.Error
	errors.As(err, &e)
	return e
}

// answered tells errors that the namenode has answered.
func answered(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrExist) || errors.Is(err, os.ErrPermission) ||
		errors.Is(err, os.ErrInvalid) || remote(err) != nil
}

// typed makes an *Error of what the library says.
func (f *Files) typed(ctx context.Context, op, name string, err error) error {
	var own *backend.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own) && own.Op != "connect":
		return own
	case errors.Is(err, os.ErrNotExist):
		return f.fail(op, name, backend.NotFound, nil)
	case errors.Is(err, os.ErrPermission):
		return f.fail(op, name, backend.Denied, errors.New("the user may not"))
	case errors.Is(err, os.ErrExist), errors.Is(err, os.ErrInvalid):
		return f.fail(op, name, backend.Failed, err)
	}
	if e := remote(err); e != nil {
		exception := e.Exception()[strings.LastIndexByte(e.Exception(), '.')+1:]
		return f.fail(op, name, kindOf(exception), errors.New(exception+": "+firstLine(e.Message())))
	}
	if strings.Contains(err.Error(), "SASL handshake") || strings.Contains(err.Error(), "kerberos") {
		return f.fail(op, name, backend.Denied, err)
	}
	kind, err := backend.Broken(ctx, err)
	return f.fail(op, name, kind, err)
}

func kindOf(exception string) backend.Kind {
	switch exception {
	case "ParentNotDirectoryException":
		return backend.NotFound
	case "AuthorizationException", "InvalidToken", "SecretManager$InvalidToken", "AccessControlException":
		return backend.Denied
	case "SafeModeException", "ServerTooBusyException", "RetriableException":
		return backend.Busy
	case "StandbyException", "IOException", "NotReplicatedYetException", "LeaseExpiredException":
		return backend.Passing
	}
	return backend.Failed
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line[:min(len(line), 300)]
}

// Close implements backend.Backend. It waits for calls that were left, which have timeouts.
func (f *Files) Close() error {
	f.mu.Lock()
	f.closed = true
	if f.current != nil {
		f.retire(f.current)
	}
	f.mu.Unlock()
	f.calls.Wait()
	return nil
}
