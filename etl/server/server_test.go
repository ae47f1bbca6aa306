package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/engine"
	"github.com/shardstream/shardstream/etl/enginetest"
	"github.com/shardstream/shardstream/etl/server"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

// objects is a node as a server in a container sees it: what it reads at $SHARDSTREAM_TARGET_URL.
func objects(t *testing.T) string {
	t.Helper()
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/secret/") {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "object "+strings.TrimPrefix(r.URL.Path, "/secret/"))
	}))
	t.Cleanup(node.Close)
	return node.URL + "/secret"
}

// start makes the runtime of a definition of the test image, by an engine of its own.
func start(t *testing.T, def etl.Definition) etl.Runtime {
	t.Helper()
	engines, err := engine.New(engine.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	if def.Kind == "" {
		def.Kind, def.Image = etl.KindContainer, or(def.Image, enginetest.Image(t))
	}
	if def.Limits.Memory == 0 && def.Kind != etl.KindServer {
		def.Limits.Memory = 128 << 20
	}
	runtime, err := server.New(def, server.Options{Engines: engines, Source: objects(t), StartTimeout: 20 * time.Second})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, runtime.Close()) })
	return runtime
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// transform gives an object to the runtime and reads the answer to its end.
func transform(t *testing.T, runtime etl.Runtime, args, data string) (string, error) {
	t.Helper()
	output, err := runtime.TransformObject(within(t), etl.Args(args), etl.Object{
		Bucket: "b", Key: "dir/a b.txt", Size: int64(len(data)), Body: strings.NewReader(data),
	})
	if err != nil {
		return "", err
	}
	defer output.Body.Close()
	answer, err := io.ReadAll(output.Body)
	return string(answer), err
}

// failed checks that the error is the user's, and what it says.
func failed(t *testing.T, err error, says ...string) {
	t.Helper()
	var fault *etl.UserError
	require.ErrorAs(t, err, &fault)
	for _, want := range says {
		require.Contains(t, err.Error(), want)
	}
}

func TestContainerTransforms(t *testing.T) {
	for _, c := range []struct {
		name string
		def  etl.Definition
		want string
	}{
		{"push by the socket, without a network", etl.Definition{}, "HELLO"},
		{"push by the port that it is given", etl.Definition{Network: etl.NetworkHost, Env: map[string]string{"ONLY_PORT": "1"}}, "HELLO"},
		{"push over a bridge", etl.Definition{Network: etl.NetworkBridge, Env: map[string]string{"ONLY_PORT": "1"}}, "HELLO"},
		{"proxy", etl.Definition{Network: etl.NetworkHost, Transport: etl.TransportProxy}, "OBJECT B/DIR/A B.TXT"},
		{"redirect, asked by the node", etl.Definition{Network: etl.NetworkHost, Transport: etl.TransportRedirect}, "OBJECT B/DIR/A B.TXT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.def.Name = "transforms"
			runtime := start(t, c.def)
			require.Equal(t, etl.StateNew, runtime.Health().State)
			require.NoError(t, runtime.Prepare(within(t)))
			got, err := transform(t, runtime, "", "hello")
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			got, err = transform(t, runtime, `{"suffix": "!"}`, "hello")
			require.NoError(t, err)
			require.Equal(t, c.want+"!", got)

			health := runtime.Health()
			require.Equal(t, etl.StateReady, health.State)
			require.Contains(t, health.Isolation, "container by podman")
			require.Contains(t, health.Confined, "no capabilities")
			require.Contains(t, runtime.Logs(), "listening on")
			stats := runtime.Stats()
			require.EqualValues(t, 2, stats.Samples)
			require.Zero(t, stats.Errors)
			require.Equal(t, 1, stats.Running)
		})
	}
}

func TestContainerIsConfined(t *testing.T) {
	t.Setenv("SHARDSTREAM_TEST_CREDENTIAL", "of the node")
	runtime := start(t, etl.Definition{Name: "confined", Env: map[string]string{"MINE": "yes"}})
	_, err := transform(t, runtime, `{"mode": "environment"}`, "x")
	failed(t, err, "MINE=yes", "uid=65534", "SHARDSTREAM_SOCKET=/run/shardstream/etl.sock")
	require.NotContains(t, err.Error(), "CREDENTIAL")
}

func TestStreamsBothWays(t *testing.T) {
	runtime := start(t, etl.Definition{Name: "streams", Workers: 2, Limits: etl.Limits{Output: 1 << 30}})
	const size = 64 << 20
	output, err := runtime.TransformObject(within(t), nil, etl.Object{Key: "large", Size: -1, Body: io.LimitReader(endless('a'), size)})
	require.NoError(t, err)
	defer output.Body.Close()
	counted := &counter{want: 'A'}
	n, err := io.Copy(counted, output.Body)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.Zero(t, counted.wrong)
}

// endless is a reader of one letter.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

type counter struct {
	want  byte
	wrong int
}

func (c *counter) Write(p []byte) (int, error) {
	c.wrong += len(p) - bytes.Count(p, []byte{c.want})
	return len(p), nil
}

func TestFaultsHarmTheirOwnRequest(t *testing.T) {
	runtime := start(t, etl.Definition{Name: "faults", Timeout: 3 * time.Second, Workers: 4, Limits: etl.Limits{Output: 4 << 20, Memory: 64 << 20}})
	require.NoError(t, runtime.Prepare(within(t)))
	for _, c := range []struct {
		mode string
		says []string
	}{
		{"fail", []string{"500 Internal Server Error", "bad image", "at line 7", "ss://b/dir/a b.txt"}},
		{"hang", []string{"no answer within 3s"}},
		{"flood", []string{"more than the 4194304 bytes", "max_output"}},
		{"die", []string{"exit status 7", "dying as I was told"}},
		{"half", []string{"exit status 7"}},
		{"oom", []string{"out of memory", "64 MiB"}},
	} {
		t.Run(c.mode, func(t *testing.T) {
			_, err := transform(t, runtime, `{"mode": "`+c.mode+`"}`, "hello")
			failed(t, err, c.says...)
			got, err := transform(t, runtime, "", "hello")
			require.NoError(t, err, "the next request finds a container that works")
			require.Equal(t, "HELLO", got)
		})
	}
	stats := runtime.Stats()
	require.EqualValues(t, 12, stats.Samples)
	require.EqualValues(t, 6, stats.Errors)
	require.EqualValues(t, 1, stats.Timeouts)
	require.GreaterOrEqual(t, stats.Restarts, int64(3))
}

func TestKilledContainerIsReplaced(t *testing.T) {
	runtime := start(t, etl.Definition{Name: "killed", Timeout: 30 * time.Second, Workers: 8})
	require.NoError(t, runtime.Prepare(within(t)))
	var wait sync.WaitGroup
	wait.Go(func() {
		_, err := transform(t, runtime, `{"mode": "hang"}`, "hello")
		failed(t, err, "killed")
	})
	require.Eventually(t, func() bool { return runtime.Stats().BytesIn > 0 || runtime.Stats().Waiting > 0 }, 10*time.Second, 10*time.Millisecond)
	names := enginetest.Containers(t, "shardstream-killed-")
	require.Len(t, names, 1)
	enginetest.Kill(t, names[0])
	wait.Wait()
	got, err := transform(t, runtime, "", "hello")
	require.NoError(t, err)
	require.Equal(t, "HELLO", got)
	require.NotContains(t, enginetest.Containers(t, "shardstream-killed-"), names[0])
}

func TestContainersThatDoNotCome(t *testing.T) {
	for _, c := range []struct {
		name string
		def  etl.Definition
		says []string
	}{
		{"image missing", etl.Definition{Image: enginetest.Missing}, []string{"is not on this node and can't be pulled by podman", "connection refused"}},
		{"never listens", etl.Definition{Command: []string{"/program", "silent"}}, []string{"did not answer GET /health within 2s", "I say nothing on any port", "$SHARDSTREAM_SOCKET"}},
		{"exits at once", etl.Definition{Command: []string{"/program", "exit", "4"}}, []string{"exit status 4", "before it answered", "these are my last words"}},
		{"no such program", etl.Definition{Command: []string{"/nothing"}}, []string{"can't be run", "/nothing"}},
		{"port on no network", etl.Definition{Env: map[string]string{"ONLY_PORT": "1"}}, []string{"needs the network host or bridge"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			enginetest.Image(t)
			engines, err := engine.New(engine.Options{Dir: t.TempDir()})
			require.NoError(t, err)
			c.def.Name, c.def.Kind = "broken", etl.KindContainer
			c.def.Image = or(c.def.Image, enginetest.Image(t))
			runtime, err := server.New(c.def, server.Options{Engines: engines, StartTimeout: 2 * time.Second})
			require.NoError(t, err)
			defer func() { require.NoError(t, runtime.Close()) }()
			failed(t, runtime.Prepare(within(t)), c.says...)
			_, err = transform(t, runtime, "", "hello")
			failed(t, err, c.says[0])
			require.Eventually(t, func() bool { // it is tried again all the while
				health := runtime.Health()
				return health.State == etl.StateFailed && strings.Contains(health.Detail, c.says[0])
			}, 30*time.Second, time.Millisecond)
			require.NoError(t, runtime.Close())
			require.Empty(t, enginetest.Containers(t, "shardstream-broken-"))
		})
	}
}

func TestRestartAndRemoval(t *testing.T) {
	runtime := start(t, etl.Definition{Name: "again"})
	require.NoError(t, runtime.Prepare(within(t)))
	before := enginetest.Containers(t, "shardstream-again-")
	require.Len(t, before, 1)
	require.NoError(t, runtime.Restart(within(t)))
	got, err := transform(t, runtime, "", "hello")
	require.NoError(t, err)
	require.Equal(t, "HELLO", got)
	require.Eventually(t, func() bool {
		now := enginetest.Containers(t, "shardstream-again-")
		return len(now) == 1 && now[0] != before[0]
	}, 20*time.Second, 50*time.Millisecond)
	require.NoError(t, runtime.Shutdown(within(t)))
	require.Empty(t, enginetest.Containers(t, "shardstream-again-"))
	_, err = transform(t, runtime, "", "hello")
	require.ErrorIs(t, err, etl.ErrClosed)
}

func TestSamples(t *testing.T) {
	for _, level := range []string{etl.LevelSample, etl.LevelBatch} {
		t.Run(level, func(t *testing.T) {
			runtime := start(t, etl.Definition{Name: "samples", Level: level, Workers: 2})
			in := []etl.Sample{sample("a", "one"), sample("b", "bad"), sample("c", "three")}
			out := make([]etl.Result, len(in))
			require.NoError(t, runtime.Transform(within(t), etl.Args(`{"suffix": "!"}`), in, out))
			require.Equal(t, "ONE!", text(out[0]))
			require.Equal(t, "a", out[0].Key)
			failed(t, out[1].Err, "ValueError: bad text", "in line 3", `"b"`)
			require.Equal(t, "THREE!", text(out[2]))

			require.NoError(t, runtime.Transform(within(t), etl.Args(`{"mode": "die"}`), in, out))
			failed(t, out[0].Err, "exit status 7")
			_, err := runtime.TransformObject(within(t), nil, etl.Object{Key: "k"})
			require.ErrorIs(t, err, etl.ErrLevel)
		})
	}
}

func sample(key, txt string) etl.Sample {
	return etl.Sample{Key: key, Fields: []etl.Field{{Name: "txt", Value: etl.BytesValue([]byte(txt))}}}
}

func text(r etl.Result) string {
	v, _ := r.Field("txt")
	return string(v.Data)
}

func TestObjectLevelOnSamples(t *testing.T) {
	two := etl.Sample{Key: "k", Fields: []etl.Field{{Name: "txt", Value: etl.BytesValue([]byte("one"))}, {Name: "cls", Value: etl.BytesValue([]byte("x"))}}}
	for _, c := range []struct {
		name   string
		fields []string
		in     etl.Sample
		want   map[string]string
		says   string
	}{
		{"the only field", nil, sample("k", "one"), map[string]string{"txt": "ONE"}, ""},
		{"a field by name", []string{"txt"}, two, map[string]string{"txt": "ONE", "cls": "x"}, ""},
		{"which of two", nil, two, nil, "2 fields (txt, cls)"},
		{"a field that is not there", []string{"jpg"}, two, nil, `no field "jpg"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			runtime := start(t, etl.Definition{Name: "fields", Fields: c.fields})
			out := make([]etl.Result, 1)
			require.NoError(t, runtime.Transform(within(t), nil, []etl.Sample{c.in}, out))
			if c.says != "" {
				failed(t, out[0].Err, c.says)
				return
			}
			require.NoError(t, out[0].Err)
			got := map[string]string{}
			for _, f := range out[0].Fields {
				got[f.Name] = string(f.Value.Data)
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestRedirectTellsWhereTo(t *testing.T) {
	runtime := start(t, etl.Definition{Name: "redirect", Network: etl.NetworkHost, Transport: "hpull://"})
	require.Equal(t, etl.TransportRedirect, runtime.Definition().Transport)
	location, err := runtime.(etl.Redirector).Location(within(t), etl.Args(`{"suffix": "!"}`), etl.Object{Bucket: "b", Key: "dir/a b.txt"})
	require.NoError(t, err)
	answer, err := http.Get(location)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, "OBJECT B/DIR/A B.TXT!", string(body))
}

// TestServerOfTheUser: the server runs elsewhere; what is asked is what AIStore's targets ask.
func TestServerOfTheUser(t *testing.T) {
	type asked struct{ Method, Path, Args, Type, Length string }
	var mu sync.Mutex
	var last asked
	well := true
	user := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !well {
			http.Error(w, "ill", http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path != "/health" {
			last = asked{r.Method, r.URL.EscapedPath(), r.URL.Query().Get("etl_args"), r.Header.Get("Content-Type"), r.Header.Get("Content-Length")}
		}
		_, _ = io.Copy(w, r.Body)
	}))
	defer user.Close()
	def := etl.Definition{Name: "user", Kind: etl.KindServer, URL: strings.Replace(user.URL, "127.0.0.1", "{host}", 1), Transport: "hpush"}
	runtime := start(t, def)
	require.NoError(t, runtime.Prepare(within(t)))
	got, err := transform(t, runtime, `{"suffix": "!"}`, "hello")
	require.NoError(t, err)
	require.Equal(t, "hello", got)
	require.Equal(t, asked{"PUT", "/b/dir/a%20b.txt", `{"suffix":"!"}`, "application/octet-stream", "5"}, last)

	mu.Lock()
	well = false
	mu.Unlock()
	_, err = transform(t, runtime, "", "hello")
	failed(t, err, "503 Service Unavailable: ill")
	failed(t, runtime.Restart(within(t)), "503")
	require.Equal(t, etl.StateFailed, runtime.Health().State)
	user.Close()
	require.Eventually(t, func() bool { // a connection that was open may take one request more
		_, err = transform(t, runtime, "", "hello")
		return strings.Contains(err.Error(), "can't be reached")
	}, 10*time.Second, 10*time.Millisecond)
	failed(t, err, user.URL)
}

func TestServerOfTheRootAlone(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /{$}", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	user := httptest.NewServer(mux)
	defer user.Close()
	runtime := start(t, etl.Definition{Name: "root", Kind: etl.KindServer, URL: user.URL})
	for range 2 {
		got, err := transform(t, runtime, "", "hello")
		require.NoError(t, err)
		require.Equal(t, "hello", got)
	}
}

// TestAnswersThatBreakOff: whatever a server does, a short answer is an error.
func TestAnswersThatBreakOff(t *testing.T) {
	for name, write := range map[string]string{
		"by its length":              "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
		"in chunks":                  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
		"in its header":              "HTTP/1.1 200 OK\r\nContent-",
		"at the end of a connection": "HTTP/1.0 200 OK\r\n\r\nshort", // whose server is then gone
	} {
		t.Run(name, func(t *testing.T) {
			user := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/health" {
					http.Error(w, "gone", http.StatusServiceUnavailable)
					return
				}
				conn, buffer, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				_, _ = buffer.WriteString(write)
				_ = buffer.Flush()
				_ = conn.Close()
			}))
			defer user.Close()
			runtime := start(t, etl.Definition{Name: "short", Kind: etl.KindServer, URL: user.URL})
			_, err := transform(t, runtime, "", "hello")
			failed(t, err)
		})
	}
}

func TestArgsAreMerged(t *testing.T) {
	user := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.URL.Query().Get("etl_args"))
	}))
	defer user.Close()
	runtime := start(t, etl.Definition{Name: "args", Kind: etl.KindServer, URL: user.URL, Args: etl.Args(`{"a": 1, "b": 2}`)})
	got, err := transform(t, runtime, `{"b": 3}`, "")
	require.NoError(t, err)
	var merged map[string]int
	require.NoError(t, json.Unmarshal([]byte(got), &merged))
	require.Equal(t, map[string]int{"a": 1, "b": 3}, merged)
}

// TestPortsAreNotShared: a container on a port that is taken is not ready because somebody else answers there, such as the
// container of the version before. It comes up once the port is free.
func TestPortsAreNotShared(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	def := etl.Definition{Name: "ports", Network: etl.NetworkHost, Port: port, Env: map[string]string{"ONLY_PORT": "1"}}
	before, after := start(t, def), start(t, def)
	require.NoError(t, before.Prepare(within(t)))
	failed(t, after.Prepare(within(t)), "in use", strconv.Itoa(port))
	require.NoError(t, before.Close())
	require.Eventually(t, func() bool { return after.Prepare(within(t)) == nil }, time.Minute, 50*time.Millisecond)
	got, err := transform(t, after, "", "hello")
	require.NoError(t, err)
	require.Equal(t, "HELLO", got)
}

// TestAnswersBeyondMemory: an answer that is held in memory is bounded by more than the definition, and no memory is taken
// for what was only announced.
func TestAnswersBeyondMemory(t *testing.T) {
	user := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(etl.MaxHeld+1))
		_, _ = io.WriteString(w, "hello")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer user.Close()
	for _, level := range []string{etl.LevelObject, etl.LevelSample} {
		def := etl.Definition{Name: "huge", Kind: etl.KindServer, URL: user.URL, Level: level}
		def.Limits.Output = etl.MaxOutput
		runtime := start(t, def)
		out := make([]etl.Result, 1)
		require.NoError(t, runtime.Transform(within(t), nil, []etl.Sample{{Key: "s", Fields: []etl.Field{{Name: "txt", Value: etl.BytesValue([]byte("x"))}}}}, out))
		require.ErrorContains(t, out[0].Err, strconv.Itoa(etl.MaxHeld))
	}
}
