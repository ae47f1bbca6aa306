package serve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/samples"
	"github.com/shardstream/shardstream/etl/serve"
)

func upper(_ context.Context, r io.Reader, w io.Writer, args serve.Args) error {
	var options struct{ Suffix string }
	if err := args.Into(&options); err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	_, err = w.Write(append(bytes.ToUpper(data), options.Suffix...))
	return err
}

func start(t *testing.T, s *serve.Server) string {
	t.Helper()
	handler, err := s.Handler()
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

type answer struct {
	status int
	kind   string
	body   string
	length int64
}

func ask(t *testing.T, method, at string, body io.Reader) (answer, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, at, body)
	require.NoError(t, err)
	if method == http.MethodPost {
		request.Header.Set("Content-Type", samples.ContentType)
	}
	request.Header.Set("X-Request-Id", "r1")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header.Get("Content-Type"), string(said), response.ContentLength}, err
}

func args(json string) string { return "?etl_args=" + url.QueryEscape(json) }

func TestObjectsArePushed(t *testing.T) {
	at := start(t, &serve.Server{Object: upper, ContentType: "text/x-upper"})
	large := strings.Repeat("large ", 1<<20)
	for name, c := range map[string]struct{ path, body, want string }{
		"with a name":       {"/bucket/a%20b/../c", "hello", "HELLO"},
		"without":           {"/", "hello", "HELLO"},
		"empty":             {"/b/k", "", ""},
		"with arguments":    {"/b/k" + args(`{"suffix": "!"}`), "x", "X!"},
		"too large to wait": {"/b/k", large, strings.ToUpper(large)},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, body := range map[string]io.Reader{
				"sized": strings.NewReader(c.body), "chunked": io.MultiReader(strings.NewReader(c.body)),
			} {
				got, err := ask(t, http.MethodPut, at+c.path, body)
				require.NoError(t, err, kind)
				require.Equal(t, 200, got.status, "%s: %.200s", kind, got.body)
				require.Equal(t, "text/x-upper", got.kind)
				require.Equal(t, c.want, got.body)
			}
		})
	}
}

func TestAnswersBeginBeforeTheirRequestsEnd(t *testing.T) {
	at := start(t, &serve.Server{Object: func(_ context.Context, r io.Reader, w io.Writer, _ serve.Args) error {
		_, err := io.Copy(w, r)
		return err
	}})
	r, w := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, at+"/b/k", r)
	require.NoError(t, err)
	piece := bytes.Repeat([]byte("p"), 200_000)
	go func() { _, _ = w.Write(piece) }()
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	back := make([]byte, len(piece))
	_, err = io.ReadFull(response.Body, back)
	require.NoError(t, err)
	go func() { _, _ = w.Write([]byte("end")); _ = w.Close() }()
	rest, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "end", string(rest))
}

func TestFailuresAreAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		f    serve.Object
		want string
	}{
		"error": {func(context.Context, io.Reader, io.Writer, serve.Args) error { return errors.New("too dark") }, "too dark"},
		"error after a little": {func(_ context.Context, _ io.Reader, w io.Writer, _ serve.Args) error {
			_, _ = w.Write([]byte("something"))
			return errors.New("too dark")
		}, "too dark"},
		"panic": {func(context.Context, io.Reader, io.Writer, serve.Args) error { panic("of the function") }, "panic: of the function\n"},
	} {
		t.Run(name, func(t *testing.T) {
			at := start(t, &serve.Server{Object: c.f})
			got, err := ask(t, http.MethodPut, at+"/b/k", strings.NewReader(strings.Repeat("x", 1<<20)))
			require.NoError(t, err)
			require.Equal(t, 422, got.status)
			require.True(t, strings.HasPrefix(got.body, c.want), got.body)
		})
	}
}

func TestAnAnswerThatFailsMidwayDoesNotLookWhole(t *testing.T) {
	at := start(t, &serve.Server{Object: func(_ context.Context, _ io.Reader, w io.Writer, _ serve.Args) error {
		_, _ = w.Write(make([]byte, 1<<20))
		return errors.New("too late")
	}})
	_, err := ask(t, http.MethodPut, at+"/b/k", nil)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestARequestThatIsCutIsNotTransformed(t *testing.T) {
	forgetful := func(_ context.Context, r io.Reader, w io.Writer, _ serve.Args) error {
		data, _ := io.ReadAll(r) // as functions do
		_, err := w.Write(data)
		return err
	}
	at := start(t, &serve.Server{Object: forgetful})
	conn, err := net.Dial("tcp", strings.TrimPrefix(at, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nshort")
	require.NoError(t, err)
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	said, _ := io.ReadAll(conn)
	require.NotContains(t, string(said), "200 OK")
}

func TestWhatDoesNotFitIsRefused(t *testing.T) {
	object := start(t, &serve.Server{Object: upper})
	sample := start(t, &serve.Server{Sample: func(context.Context, *etl.Sample, serve.Args) error { return nil }})
	for name, c := range map[string]struct {
		method, at string
		status     int
		want       string
	}{
		"arguments that are no JSON":   {http.MethodPut, object + "/b/k?etl_args=%7B", 400, "not a JSON object"},
		"arguments that are no object": {http.MethodPut, object + "/b/k" + args("[1]"), 400, "not a JSON object"},
		"arguments it does not have":   {http.MethodPut, object + "/b/k" + args(`{"size": 1}`), 400, `"size"`},
		"samples to objects":           {http.MethodPost, object + "/samples", 409, "PUT /BUCKET/KEY"},
		"objects to samples":           {http.MethodPut, sample + "/b/k", 409, "POST /samples"},
		"another path":                 {http.MethodPost, sample + "/batches", 404, "/samples"},
		"another method":               {http.MethodDelete, object + "/b/k", 405, "DELETE"},
		"no samples":                   {http.MethodPost, sample + "/samples", 400, "begin with"},
		"no node":                      {http.MethodGet, object + "/b/k", 503, "SHARDSTREAM_TARGET_URL"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ask(t, c.method, c.at, strings.NewReader(strings.Repeat("x", 100_000)))
			require.NoError(t, err)
			require.Equal(t, c.status, got.status, got.body)
			require.Contains(t, got.body, c.want)
		})
	}
	for name, s := range map[string]*serve.Server{"nothing": {}, "two": {Object: upper, Batch: double}} {
		_, err := s.Handler()
		require.ErrorContains(t, err, "set one of", name)
	}
}

func TestObjectsAreReadFromTheNode(t *testing.T) {
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/missing"):
			http.Error(w, "no such object", http.StatusNotFound)
		case strings.HasSuffix(r.URL.Path, "/short"):
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(make([]byte, 1000))
		default:
			_, _ = fmt.Fprintf(w, "%s %s", r.RequestURI, r.Header.Get("X-Request-Id"))
		}
	}))
	defer node.Close()
	at := start(t, &serve.Server{Object: upper, Target: node.URL + "/v1/objects/"})
	const object = "/b/a%20b/c;member=1.jpg?version=3"
	got, err := ask(t, http.MethodGet, at+object+"&etl_args="+url.QueryEscape(`{"suffix":"!"}`), nil)
	require.NoError(t, err)
	require.Equal(t, strings.ToUpper("/v1/objects"+object+" r1")+"!", got.body)

	got, err = ask(t, http.MethodGet, at+"/b/missing", nil)
	require.NoError(t, err)
	require.Equal(t, 404, got.status)
	require.Contains(t, got.body, "no such object")

	got, err = ask(t, http.MethodGet, at+"/b/short", nil)
	require.NoError(t, err)
	require.Equal(t, 502, got.status)
}

func double(_ context.Context, in []etl.Sample, _ serve.Args) ([]etl.Sample, error) {
	for i := range in {
		in[i].Key = "new/" + in[i].Key
		in[i].Fields = append(in[i].Fields, in[i].Fields...)
		in[i].Fields[1].Name = "again"
	}
	return in, nil
}

func transformed(t *testing.T, at string, in ...etl.Sample) []etl.Result {
	t.Helper()
	body, _, err := samples.Encode(in)
	require.NoError(t, err)
	got, err := ask(t, http.MethodPost, at+"/samples", &body)
	require.NoError(t, err)
	require.Equal(t, 200, got.status, got.body)
	require.Equal(t, samples.ContentType, got.kind)
	reader := samples.NewReader(strings.NewReader(got.body), samples.Limits{Answer: true})
	var out []etl.Result
	for {
		result, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		out = append(out, result)
	}
}

func sample(key, field, data string) etl.Sample {
	return etl.Sample{Key: key, Fields: []etl.Field{{Name: field, Value: etl.BytesValue([]byte(data))}}}
}

func TestSamplesAreTransformedOneByOne(t *testing.T) {
	at := start(t, &serve.Server{Sample: func(_ context.Context, s *etl.Sample, _ serve.Args) error {
		data := &s.Fields[0].Value.Data
		switch string(*data) {
		case "bad":
			return errors.New("too dark\nat line 3")
		case "panic":
			panic("of the function")
		case "reserved":
			s.Fields[0].Name = "__mask__"
		case "key":
			s.Key = "../up"
		}
		*data = bytes.ToUpper(*data)
		return nil
	}})
	out := transformed(t, at, sample("../odd", "txt", "a"), sample("b", "txt", "bad"), sample("c", "txt", "panic"),
		sample("d", "txt", "reserved"), sample("e", "txt", "key"), sample("f", "txt", strings.Repeat("z", 1<<20)))
	require.Len(t, out, 6)
	require.Equal(t, sample("", "txt", "A"), out[0].Sample, "its key is kept")
	require.Equal(t, &samples.Fault{Summary: "too dark", Traceback: "at line 3"}, out[1].Err)
	require.ErrorContains(t, out[2].Err, "panic: of the function")
	require.ErrorContains(t, out[3].Err, "name of a field")
	require.ErrorContains(t, out[4].Err, "can't name a sample")
	require.Equal(t, strings.Repeat("Z", 1<<20), string(out[5].Fields[0].Value.Data))
	require.Empty(t, transformed(t, at))
}

func TestSamplesAreTransformedTogether(t *testing.T) {
	at := start(t, &serve.Server{Batch: double, MaxSample: 1000})
	out := transformed(t, at, sample("a", "x", "1"), sample("b", "x", "2"))
	require.Equal(t, "new/b", out[1].Key)
	require.Equal(t, "again", out[1].Fields[1].Name)

	body, _, err := samples.Encode([]etl.Sample{sample("a", "x", strings.Repeat("1", 600)), sample("b", "x", strings.Repeat("2", 600))})
	require.NoError(t, err)
	got, err := ask(t, http.MethodPost, at+"/samples", &body)
	require.NoError(t, err)
	require.Equal(t, 413, got.status)

	short := start(t, &serve.Server{Batch: func(_ context.Context, in []etl.Sample, _ serve.Args) ([]etl.Sample, error) { return in[1:], nil }})
	for _, result := range transformed(t, short, sample("a", "x", "1"), sample("b", "x", "2")) {
		require.ErrorContains(t, result.Err, "1 samples for 2")
	}
}

func TestAServerListensWhereTheEnvironmentSays(t *testing.T) {
	free := func() string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer listener.Close()
		return listener.Addr().String()
	}
	socket := filepath.Join(t.TempDir(), "etl.sock")
	stale, err := net.Listen("unix", socket)
	require.NoError(t, err)
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, stale.Close())
	tcp := free()
	_, port, _ := net.SplitHostPort(free())
	for name, c := range map[string]struct{ variable, value, network, address string }{
		"socket":  {"SHARDSTREAM_SOCKET", socket, "unix", socket},
		"address": {"SHARDSTREAM_LISTEN", tcp, "tcp", tcp},
		"port":    {"PORT", port, "tcp", "127.0.0.1:" + port},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- (&serve.Server{Object: upper}).Run(ctx) }()
			client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, c.network, c.address)
			}}}
			require.Eventually(t, func() bool {
				response, err := client.Get("http://etl/health")
				if err != nil {
					return false
				}
				defer response.Body.Close()
				said, err := io.ReadAll(response.Body)
				return err == nil && strings.Contains(string(said), `"level":"object"`)
			}, 20*time.Second, 5*time.Millisecond)
			cancel()
			require.NoError(t, <-ended)
		})
	}
	_, err = os.Stat(socket)
	require.ErrorIs(t, err, os.ErrNotExist, "its socket goes with the server")
	require.Error(t, (&serve.Server{Object: upper, Address: "/no/such/directory/socket"}).Run(t.Context()))
}

func TestWhatIsUnderWayIsAnsweredAtTheEnd(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "etl.sock")
	begun, end := make(chan struct{}), make(chan struct{})
	s := &serve.Server{Address: socket, Object: func(_ context.Context, _ io.Reader, w io.Writer, _ serve.Args) error {
		close(begun)
		<-end
		_, err := w.Write([]byte("done"))
		return err
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	require.Eventually(t, func() bool { _, err := os.Stat(socket); return err == nil }, 20*time.Second, 5*time.Millisecond)
	said := make(chan string, 1)
	go func() {
		request, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://etl/b/k", nil)
		response, err := client.Do(request)
		if err != nil {
			said <- err.Error()
			return
		}
		defer response.Body.Close()
		data, _ := io.ReadAll(response.Body)
		said <- string(data)
	}()
	<-begun
	cancel()
	require.Eventually(t, func() bool { _, err := os.Stat(socket); return err != nil }, 20*time.Second, 5*time.Millisecond)
	close(end)
	require.Equal(t, "done", <-said)
	require.NoError(t, <-ended)
}
