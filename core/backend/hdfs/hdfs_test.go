package hdfs_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	client "github.com/colinmarc/hdfs/v2"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
	"github.com/shardstream/shardstream/core/backend/hdfs"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

func TestMain(m *testing.M) { os.Exit(serverstest.Main(m)) }

func open(t *testing.T, c backend.Config) backend.Backend {
	t.Helper()
	b, err := hdfs.Open(t.Context(), c)
	require.NoError(t, err)
	return b
}

func TestConformance(t *testing.T) {
	server := serverstest.Get(t, backend.HDFS)
	bucket := server.Bucket(t)
	odd := slices.DeleteFunc(slices.Clone(backendtest.OddNames), func(name string) bool { return strings.Contains(name, ":") }) // no names of HDFS
	backendtest.Run(t, backendtest.Target{
		Open: func(t *testing.T, prefix string) backend.Backend {
			t.Helper()
			return open(t, server.Config(t, bucket.Name, prefix))
		},
		Odd: odd, Names: 200, Large: 20 << 20,
	})
}

func put(t *testing.T, b backend.Backend, name string, data []byte) backend.Entry {
	t.Helper()
	e, err := b.Put(t.Context(), name, bytes.NewReader(data), int64(len(data)), backend.PutOptions{})
	require.NoError(t, err)
	return e
}

func list(t *testing.T, b backend.Backend, prefix, after string) []string {
	t.Helper()
	names := []string{}
	for e, err := range b.List(t.Context(), prefix, after) {
		require.NoError(t, err)
		names = append(names, e.Name)
	}
	return names
}

func TestListingsAreInTheOrderOfWholeNames(t *testing.T) {
	server := serverstest.Get(t, backend.HDFS)
	b := open(t, server.Config(t, server.Bucket(t).Name, "sorted"))
	defer func() { require.NoError(t, b.Close()) }()
	want := []string{"a-b", "a.tar", "a/x/1", "a/x/2", "a/y", "a0", "b"}
	for _, name := range want {
		put(t, b, name, []byte("1"))
	}
	require.Equal(t, want, list(t, b, "", ""))
	require.Equal(t, []string{"a/x/1", "a/x/2", "a/y"}, list(t, b, "a/", ""))
	require.Equal(t, []string{"a/x/2", "a/y", "a0", "b"}, list(t, b, "", "a/x/1"))
	require.Equal(t, []string{"a/y", "a0"}, list(t, b, "a", "a/x/2"))
	require.Equal(t, []string{}, list(t, b, "none/below", ""))
	_, err := b.Stat(t.Context(), "a/x")
	require.Equal(t, backend.NotFound, backend.KindOf(err), "a directory is no object: %v", err)
	_, err = b.Stat(t.Context(), "b/x")
	require.Equal(t, backend.NotFound, backend.KindOf(err), "nor is there one below a file: %v", err)
	require.NoError(t, b.Delete(t.Context(), "a/x"))
	require.Contains(t, list(t, b, "", ""), "a/x/1", "directories stay")
	require.NoError(t, b.Delete(t.Context(), "a.tar"))
	require.NotContains(t, list(t, b, "", ""), "a.tar")
}

func TestNoDirectory(t *testing.T) {
	server := serverstest.Get(t, backend.HDFS)
	b := open(t, server.Config(t, server.Bucket(t).Name, "never/made"))
	defer func() { require.NoError(t, b.Close()) }()
	for _, prefix := range []string{"", "x", "x/y"} {
		var last error
		for _, err := range b.List(t.Context(), prefix, "") {
			last = err
		}
		require.Equal(t, backend.NoBucket, backend.KindOf(last), "%v", last)
	}
}

func TestAPutThatFailsLeavesNothing(t *testing.T) {
	server := serverstest.Get(t, backend.HDFS)
	b := open(t, server.Config(t, server.Bucket(t).Name, "whole"))
	defer func() { require.NoError(t, b.Close()) }()
	put(t, b, "kept", []byte("as it was"))
	_, err := b.Put(t.Context(), "kept", bytes.NewReader([]byte("short")), 10, backend.PutOptions{})
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	body := &ending{ReadSeeker: bytes.NewReader(make([]byte, 8<<20)), after: 1 << 20, end: cancel}
	_, err = b.Put(ctx, "kept", body, 8<<20, backend.PutOptions{})
	require.ErrorIs(t, err, context.Canceled)
	body.ReadSeeker = nil // whoever reads it still would crash
	got, err := b.Open(t.Context(), "kept", backend.OpenOptions{})
	require.NoError(t, err)
	data, err := io.ReadAll(got)
	require.NoError(t, err)
	require.Equal(t, "as it was", string(data))
	require.NoError(t, got.Close())
	require.Equal(t, []string{"kept"}, list(t, b, "", ""))
}

// direct is a client of the server's own, past the backend and the proxy, and the folder of a prefix there.
func direct(t *testing.T, server *serverstest.Server, config backend.Config) (*client.Client, string) {
	t.Helper()
	c, err := client.NewClient(client.ClientOptions{Addresses: []string{server.Addr}, User: "test"})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c, "/" + config.Prefix()
}

func filesIn(t *testing.T, c *client.Client, folder string) (names []string) {
	t.Helper()
	infos, err := c.ReadDir(folder)
	require.NoError(t, err)
	for _, info := range infos {
		names = append(names, info.Name())
	}
	return names
}

func TestWhatDeadPutsHaveLeftIsSwept(t *testing.T) {
	server := serverstest.Get(t, backend.HDFS)
	config := server.Config(t, server.Bucket(t).Name, "swept")
	c, folder := direct(t, server, config)
	require.NoError(t, c.MkdirAll(folder, 0o777))
	require.NoError(t, c.Chmod(folder, 0o777))
	for name, age := range map[string]time.Duration{
		".shardstream-put-old": 25 * time.Hour, ".shardstream-put-new": 0, "old": 25 * time.Hour,
	} {
		require.NoError(t, c.CreateEmptyFile(folder+name))
		require.NoError(t, c.Chtimes(folder+name, time.Now(), time.Now().Add(-age)))
	}
	b := open(t, config)
	require.Equal(t, []string{"old"}, list(t, b, "", ""))
	require.Contains(t, filesIn(t, c, folder), ".shardstream-put-old", "who only reads changes nothing")
	put(t, b, "a", []byte("a"))
	require.Eventually(t, func() bool { return !slices.Contains(filesIn(t, c, folder), ".shardstream-put-old") }, 20*time.Second, 10*time.Millisecond)
	require.ElementsMatch(t, []string{".shardstream-put-new", "a", "old"}, filesIn(t, c, folder), "another node may be putting")
	require.NoError(t, b.Close())
}

// A put whose connections break leaves nothing, as long as the name node can be reached.
func TestABrokenPutIsDiscarded(t *testing.T) {
	server := serverstest.Get(t, backend.HDFS)
	config := server.Config(t, server.Bucket(t).Name, "broken")
	c, folder := direct(t, server, config)
	b := open(t, config)
	put(t, b, "a", []byte("a"))
	body := &ending{ReadSeeker: bytes.NewReader(make([]byte, 8<<20)), after: 1 << 20, end: func() { server.TCP.CutAll(); server.Data.CutAll() }}
	_, err := b.Put(t.Context(), "b", body, 8<<20, backend.PutOptions{})
	require.Error(t, err)
	require.NoError(t, b.Close())
	require.Equal(t, []string{"a"}, filesIn(t, c, folder))
}

// ending ends a context when some of it was read.
type ending struct {
	io.ReadSeeker
	after int
	end   func()
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.ReadSeeker.Read(p)
	if e.after -= n; e.after < 0 {
		e.end()
	}
	return n, err
}

// A file that is replaced while it is read goes on as it was, or breaks off: it never goes on as the new one.
func TestAFileThatIsReplacedIsNotMixed(t *testing.T) {
	server := serverstest.Get(t, backend.HDFS)
	b := open(t, server.Config(t, server.Bucket(t).Name, "mixed"))
	defer func() { require.NoError(t, b.Close()) }()
	first, second := bytes.Repeat([]byte("1"), 2<<20), bytes.Repeat([]byte("2"), 2<<20)
	put(t, b, "a", first)
	for _, patient := range []backend.Backend{b, backend.WithRetries(b, backend.Policy{})} {
		put(t, b, "a", first)
		body, err := patient.Open(t.Context(), "a", backend.OpenOptions{})
		require.NoError(t, err)
		put(t, b, "a", second)
		data, err := io.ReadAll(body)
		require.NoError(t, body.Close())
		require.True(t, bytes.HasPrefix(first, data), "bytes of the second file")
		if err != nil {
			require.Contains(t, []backend.Kind{backend.Changed, backend.Passing, backend.NotFound}, backend.KindOf(err), "%v", err)
		}
	}
}

func TestADataNodeThatCutsAndStalls(t *testing.T) {
	server := serverstest.Get(t, backend.HDFS)
	raw := open(t, server.Config(t, server.Bucket(t).Name, "cut"))
	b := backend.WithRetries(raw, backend.Policy{Base: time.Millisecond})
	defer func() { require.NoError(t, b.Close()) }()
	data := backendtest.Bytes(7, 4<<20)
	put(t, b, "a", data)
	body, err := b.Open(t.Context(), "a", backend.OpenOptions{})
	require.NoError(t, err)
	_, err = io.ReadFull(body, make([]byte, 100_000))
	require.NoError(t, err)
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, data[100_000:], rest)
	require.NoError(t, body.Close())

	// Nobody waits for a call longer than its context.
	body, err = raw.Open(t.Context(), "a", backend.OpenOptions{})
	require.NoError(t, err)
	require.NoError(t, body.Close(), "a body may be given up")
}

func TestTheGuardSeesNamenodesAndDatanodes(t *testing.T) {
	server := serverstest.Get(t, backend.HDFS)
	config := server.Config(t, server.Bucket(t).Name, "guarded")
	b := open(t, config)
	put(t, b, "a", []byte("1"))
	require.NoError(t, b.Close())

	config.Dial = backend.NewGuard(nil).DialContext
	b = open(t, config)
	_, err := b.Stat(t.Context(), "a")
	require.Equal(t, backend.Forbidden, backend.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "backend_allow")
	require.NoError(t, b.Close())

	var dialed []string
	allowed := backend.NewGuard([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed = append(dialed, address)
		return allowed.DialContext(ctx, network, address)
	}
	b = open(t, config)
	body, err := b.Open(t.Context(), "a", backend.OpenOptions{})
	require.NoError(t, err)
	_, err = io.ReadAll(body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	require.NoError(t, b.Close())
	require.GreaterOrEqual(t, len(dialed), 2, "the namenode, and a datanode")
}

func TestANamenodeThatIsNotThere(t *testing.T) {
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	b := open(t, backend.Config{Address: backend.Address{Scheme: backend.HDFS, Host: address, Path: "x"}})
	_, err = b.Stat(t.Context(), "a")
	require.Equal(t, backend.Passing, backend.KindOf(err), "%v", err)
	require.ErrorContains(t, err, address)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
}

// A namenode that says nothing: calls end with their contexts, and Close by the timeouts of connections.
func TestANamenodeThatHangs(t *testing.T) {
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	b := open(t, backend.Config{
		Address: backend.Address{Scheme: backend.HDFS, Host: listener.Addr().String(), Path: "x"}, Timeout: 200 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = b.Stat(ctx, "a")
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Stat(t.Context(), "a")
	require.Equal(t, backend.Passing, backend.KindOf(err), "%v", err)
	require.NoError(t, b.Close())
}

func TestSecrets(t *testing.T) {
	t.Setenv("KRB5_CONFIG", "/none/krb5.conf")
	keys := keytab.New()
	require.NoError(t, keys.AddEntry("x", "Y", "password", time.Now(), 1, 18))
	content, err := keys.Marshal()
	require.NoError(t, err)
	keytab := base64.StdEncoding.EncodeToString(content)
	for want, fields := range map[string]map[string]string{
		"field":       {"usr": "x"},
		"USER@REALM":  {"principal": "x", "keytab": keytab},
		"base64":      {"principal": "x@Y", "keytab": "?"},
		"krb5.conf":   {"principal": "x@Y", "keytab": keytab},
		"protection":  {"protection": "none"},
		"keytab is n": {"principal": "x@Y"},
	} {
		_, err := hdfs.Open(t.Context(), backend.Config{
			Address: backend.Address{Scheme: backend.HDFS, Host: "h:1"}, Credentials: fields,
		})
		require.ErrorContains(t, err, want)
		require.Equal(t, backend.Denied, backend.KindOf(err))
	}
}
