package streams_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"math"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/loader"
)

func TestAbsurdRequestsAreRefused(t *testing.T) {
	c := newCluster(t, 1).fill(2, 10, 100)
	ask := func(t *testing.T, r wire.ReadRequest) int {
		t.Helper()
		body, err := json.Marshal(r)
		require.NoError(t, err)
		client := http.Client{Timeout: 5 * time.Second}
		resp, err := client.Post(c.targets[0].http.URL+"/v1/streams/"+c.snap.ID()+"/read", "application/json", bytes.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	good := wire.ReadRequest{Shuffle: "window", BatchSize: 4, World: 1, Workers: 1, To: 1, Chunk: 16}
	require.Equal(t, http.StatusSwitchingProtocols, ask(t, good))
	for name, edit := range map[string]func(*wire.ReadRequest){
		"batch size":         func(r *wire.ReadRequest) { r.BatchSize = 1 << 20 },
		"batch size, max":    func(r *wire.ReadRequest) { r.BatchSize = math.MaxInt },
		"world":              func(r *wire.ReadRequest) { r.World = math.MaxInt },
		"rank":               func(r *wire.ReadRequest) { r.Rank = 1 },
		"workers":            func(r *wire.ReadRequest) { r.Workers = math.MaxInt },
		"workers, last":      func(r *wire.ReadRequest) { r.Workers, r.Worker = math.MaxInt, math.MaxInt-1 },
		"no workers":         func(r *wire.ReadRequest) { r.Workers = 0 },
		"to":                 func(r *wire.ReadRequest) { r.To = math.MaxInt64 },
		"from":               func(r *wire.ReadRequest) { r.From, r.To = math.MaxInt64-1, math.MaxInt64 },
		"negative from":      func(r *wire.ReadRequest) { r.From = math.MinInt64 },
		"start":              func(r *wire.ReadRequest) { r.Start = math.MaxInt64 },
		"chunk":              func(r *wire.ReadRequest) { r.Chunk = math.MinInt },
		"slots":              func(r *wire.ReadRequest) { r.Slots = make([]int, 5) },
		"slot":               func(r *wire.ReadRequest) { r.Slots = []int{math.MaxInt} },
		"slices":             func(r *wire.ReadRequest) { r.Slices = math.MaxInt },
		"window":             func(r *wire.ReadRequest) { r.Window = math.MaxInt },
		"shuffle":            func(r *wire.ReadRequest) { r.Shuffle = "blender" },
		"more fields":        func(r *wire.ReadRequest) { r.Fields = make([]string, wire.MaxFields+1) },
		"slots past the end": func(r *wire.ReadRequest) { r.From, r.To, r.Slots = 5, 6, []int{0} },
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			edit(&r)
			require.Equal(t, http.StatusBadRequest, ask(t, r))
		})
	}
	r := good
	r.Chunk, r.Slots = math.MaxInt, []int{3, 3, 3, 3}
	require.Equal(t, http.StatusSwitchingProtocols, ask(t, r), "odd, and harmless")
}

// liar sends well-formed frames that answer something else.
type liar struct {
	net.Conn
	frames []byte
}

func (l *liar) Write(p []byte) (int, error) {
	_, err := l.Conn.Write(l.frames)
	l.frames = nil
	return len(p), err
}

func TestTargetsThatAnswerSomethingElse(t *testing.T) {
	mark := func(kind wire.FrameType, next, samples int64) []byte {
		head := wire.Chunk{Next: next, Samples: samples}.Append(nil)
		return append(wire.AppendHeader(nil, kind, head, 0), head...)
	}
	batch := func(index int64, slot int) []byte {
		b := wire.Batch{}
		b.Reset(index)
		b.Samples = append(b.Samples, wire.Sample{Slot: slot, Key: []byte("k")})
		head := b.Append(nil)
		return append(wire.AppendHeader(nil, wire.FrameBatch, head, 0), head...)
	}
	for name, frames := range map[string][]byte{
		"a batch past the end":    batch(1<<40, 0),
		"a batch twice":           append(batch(0, 0), batch(0, 1)...),
		"a chunk past the end":    mark(wire.FrameChunk, 1<<60, 0),
		"a chunk back":            append(batch(3, 0), mark(wire.FrameChunk, 1, 1)...),
		"a chunk that counts not": append(batch(0, 0), mark(wire.FrameChunk, 1, 2)...),
		"an early end":            mark(wire.FrameEnd, 1, 0),
		"a place past the batch":  batch(0, 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 1).fill(1, 40, 100)
			c.targets[0].setWrap(func(nc net.Conn) net.Conn { return &liar{Conn: nc, frames: frames} })
			l := open(t, c, func(cfg *loader.Config) { cfg.BatchSize, cfg.Timeout = 8, time.Second })
			require.NoError(t, l.Start(loader.Run{}))
			_, err := drain(t, l)
			require.Error(t, err)
			require.NotErrorIs(t, err, loader.ErrEnd)
		})
	}
}

func TestMoreFieldsThanAFrameCarries(t *testing.T) {
	c := newCluster(t, 1)
	c.put("wide.tar", wideShard(t, wire.MaxFields+1))
	c.seal()
	l := open(t, c, nil)
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	require.ErrorContains(t, err, "more than 4096 different fields")

	got := run(t, open(t, c, func(cfg *loader.Config) { cfg.Fields = []string{"f17"} }), loader.Run{})
	require.Len(t, got, 1)
	require.Equal(t, "17", string(got[0].Columns["f17"].Ragged[0]))
}

// wideShard packs one sample of many fields.
func wideShard(t *testing.T, fields int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range fields {
		body := strconv.Itoa(i)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: "a.f" + body, Mode: 0o644, Size: int64(len(body)), Format: tar.FormatUSTAR}))
		_, err := w.Write([]byte(body))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}
