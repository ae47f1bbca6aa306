package filter_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/engine"
	"github.com/shardstream/shardstream/etl/enginetest"
	"github.com/shardstream/shardstream/etl/filter"
	"github.com/shardstream/shardstream/etl/sandbox"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

// each runs a test with a filter in a container and with one of the node's own programs.
func each(t *testing.T, def etl.Definition, test func(t *testing.T, f *filter.Filter)) {
	t.Helper()
	for _, kind := range []string{etl.KindContainer, etl.KindCommand} {
		t.Run(kind, func(t *testing.T) { test(t, start(t, kind, def)) })
	}
}

func start(t *testing.T, kind string, def etl.Definition) *filter.Filter {
	t.Helper()
	image := enginetest.Image(t)
	def.Kind, def.Transport, def.Command = kind, etl.TransportStdio, []string{"/program", "filter"}
	if kind == etl.KindContainer {
		def.Image = image
	} else {
		def.Command[0] = enginetest.Program(t)
	}
	if def.Limits.Memory == 0 {
		def.Limits.Memory = 64 << 20
	}
	engines, err := engine.New(engine.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	f, err := filter.New(def, filter.Options{Engines: engines, Dir: t.TempDir(), Isolation: sandbox.None})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return f
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func transform(t *testing.T, f *filter.Filter, args string, body io.Reader) (string, error) {
	t.Helper()
	output, err := f.TransformObject(within(t), etl.Args(args), etl.Object{Bucket: "b", Key: "k", Size: -1, Body: body})
	if err != nil {
		return "", err
	}
	defer output.Body.Close()
	answer, err := io.ReadAll(output.Body)
	return string(answer), err
}

func failed(t *testing.T, err error, says ...string) {
	t.Helper()
	var fault *etl.UserError
	require.ErrorAs(t, err, &fault)
	for _, want := range says {
		require.Contains(t, err.Error(), want)
	}
}

func TestFilter(t *testing.T) {
	each(t, etl.Definition{Name: "filters"}, func(t *testing.T, f *filter.Filter) {
		require.NoError(t, f.Prepare(within(t)))
		got, err := transform(t, f, `{"suffix": "!", "other": [1]}`, strings.NewReader("hello"))
		require.NoError(t, err)
		require.Equal(t, "HELLO!", got)
		got, err = transform(t, f, "", strings.NewReader(""))
		require.NoError(t, err)
		require.Empty(t, got)
		require.Contains(t, f.Logs(), "filtering ss://b/k")
		require.Equal(t, etl.StateReady, f.Health().State)
		require.NotEmpty(t, f.Health().Confined)
		require.EqualValues(t, 2, f.Stats().Samples)
		require.EqualValues(t, 5, f.Stats().BytesIn)
		require.EqualValues(t, 6, f.Stats().BytesOut)
	})
}

func TestFilterStreams(t *testing.T) {
	each(t, etl.Definition{Name: "streams", Limits: etl.Limits{Output: 1 << 30}}, func(t *testing.T, f *filter.Filter) {
		const size = 32 << 20
		output, err := f.TransformObject(within(t), nil, etl.Object{Key: "k", Size: size, Body: io.LimitReader(letters{}, size)})
		require.NoError(t, err)
		defer output.Body.Close()
		require.EqualValues(t, -1, output.Size)
		answer, err := io.ReadAll(output.Body)
		require.NoError(t, err)
		require.Len(t, answer, size)
		require.Equal(t, size, strings.Count(string(answer), "A"))
	})
}

// letters is an endless reader.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

func TestFilterFaults(t *testing.T) {
	def := etl.Definition{Name: "faults", Timeout: 3 * time.Second, Limits: etl.Limits{Output: 4 << 20}}
	each(t, def, func(t *testing.T, f *filter.Filter) {
		for _, c := range []struct {
			mode string
			says []string
		}{
			{"fail", []string{"exit status 3", "bad image", "at line 7", "ss://b/k"}},
			{"late", []string{"exit status 5", "it went wrong at the very end"}}, // after its output was complete
			{"hang", []string{"neither read nor wrote anything for 3s"}},
			{"flood", []string{"more than the 4194304 bytes"}},
			{"oom", []string{"memory"}},
		} {
			t.Run(c.mode, func(t *testing.T) {
				_, err := transform(t, f, `{"mode": "`+c.mode+`"}`, strings.NewReader(strings.Repeat("hello", 100_000)))
				failed(t, err, c.says...)
			})
		}
		got, err := transform(t, f, "", strings.NewReader("hello"))
		require.NoError(t, err)
		require.Equal(t, "HELLO", got)
		require.EqualValues(t, 5, f.Stats().Errors)
		require.EqualValues(t, 1, f.Stats().Timeouts)
		require.NoError(t, f.Close())
		require.Eventually(t, func() bool { return len(enginetest.Containers(t, "shardstream-faults-")) == 0 }, 30*time.Second, 50*time.Millisecond, "a container is left")
	})
}

// TestFilterOfBrokenObject: an object that can't be read to its end must not look like a shorter one.
func TestFilterOfBrokenObject(t *testing.T) {
	each(t, etl.Definition{Name: "broken"}, func(t *testing.T, f *filter.Filter) {
		damaged := errors.New("block 3 is damaged")
		_, err := transform(t, f, "", io.MultiReader(strings.NewReader("hello"), iotest.ErrReader(damaged)))
		require.ErrorIs(t, err, damaged)
	})
}

func TestFilterIsClosed(t *testing.T) {
	each(t, etl.Definition{Name: "closes"}, func(t *testing.T, f *filter.Filter) {
		ended := make(chan error, 1)
		go func() {
			_, err := f.TransformObject(t.Context(), etl.Args(`{"mode": "hang"}`), etl.Object{Key: "k", Body: strings.NewReader("x")})
			ended <- err
		}()
		require.Eventually(t, func() bool { return f.Stats().Running == 1 }, 20*time.Second, 10*time.Millisecond)
		require.NoError(t, f.Close())
		require.ErrorIs(t, <-ended, etl.ErrClosed)
		_, err := f.TransformObject(t.Context(), nil, etl.Object{Key: "k"})
		require.ErrorIs(t, err, etl.ErrClosed)
		require.Eventually(t, func() bool { return len(enginetest.Containers(t, "shardstream-closes-")) == 0 }, 30*time.Second, 50*time.Millisecond, "a container is left")
	})
}

func TestFilterOfSamples(t *testing.T) {
	each(t, etl.Definition{Name: "fields", Fields: []string{"txt"}}, func(t *testing.T, f *filter.Filter) {
		out := make([]etl.Result, 1)
		in := []etl.Sample{{Key: "k", Fields: []etl.Field{{Name: "txt", Value: etl.BytesValue([]byte("one"))}, {Name: "cls", Value: etl.BytesValue([]byte("x"))}}}}
		require.NoError(t, f.Transform(within(t), nil, in, out))
		require.NoError(t, out[0].Err)
		txt, _ := out[0].Field("txt")
		require.Equal(t, "ONE", string(txt.Data))
	})
}

func TestProgramsThatAreNotThere(t *testing.T) {
	f, err := filter.New(etl.Definition{Name: "n", Kind: etl.KindCommand, Command: []string{"no-such-program"}}, filter.Options{})
	require.NoError(t, err)
	failed(t, f.Prepare(within(t)), "no-such-program is not on this node")
	require.Equal(t, etl.StateFailed, f.Health().State)
	_, err = f.TransformObject(within(t), nil, etl.Object{Key: "k", Body: strings.NewReader("x")})
	failed(t, err, "no-such-program")
}

// TestEscapedReaders: what a program leaves behind with its stdin open holds up nobody who closes the answer.
func TestEscapedReaders(t *testing.T) {
	def := etl.Definition{
		Name: "escapes", Kind: etl.KindCommand, Transport: etl.TransportStdio, Isolation: sandbox.None,
		Command: []string{"sh", "-c", "exec 3<&0; setsid sleep 100 >/dev/null 2>&1 & echo well"},
	}
	f, err := filter.New(def, filter.Options{Dir: t.TempDir(), Isolation: sandbox.None})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	output, err := f.TransformObject(within(t), nil, etl.Object{Key: "k", Size: -1, Body: endless{}})
	require.NoError(t, err)
	got, err := io.ReadAll(output.Body)
	require.NoError(t, err)
	require.Equal(t, "well\n", string(got))
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = output.Body.Close()
	}()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Fatal("closing the answer never ends")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
