package streams_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

const (
	fuzzSamples = 64
	fuzzBatch   = 8
	// fuzzTimeout ends a stream that makes no progress at once, so that a fuzzer gets many done; fuzzPatience
	// lets it try again a few times.
	fuzzTimeout  = 15 * time.Millisecond
	fuzzPatience = 100 * time.Millisecond
	// fuzzMemory is what reading any stream of a few kB may allocate, buffers of connections included.
	fuzzMemory = 32 << 20
)

// impostor answers every stream request with the same bytes, and says nothing more.
type impostor struct {
	http *httptest.Server
	mu   sync.Mutex
	body []byte
}

func newImpostor(t testing.TB) *impostor {
	p := &impostor{}
	p.http = httptest.NewServer(p)
	t.Cleanup(p.http.Close)
	return p
}

func (p *impostor) say(body []byte) {
	p.mu.Lock()
	p.body = body
	p.mu.Unlock()
}

func (p *impostor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	nc, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer nc.Close()
	p.mu.Lock()
	body := p.body
	p.mu.Unlock()
	_, _ = nc.Write(append([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.StreamProtocol+"\r\n\r\n"), body...))
}

func (p *impostor) nodes() api.Map {
	return api.Map{Version: 1, Nodes: []api.Node{{ID: "target-1", Role: api.RoleTarget, State: api.StateOK, Addr: p.http.Listener.Addr().String(), Weight: 1}}}
}

func (p *impostor) OpenStream(context.Context, api.StreamRequest) (api.StreamInfo, error) {
	return api.StreamInfo{Snapshot: "s", Samples: fuzzSamples, Shards: 1, Map: p.nodes()}, nil
}

func (p *impostor) RefreshMap(context.Context) (*api.Placer, error) {
	return &api.Placer{Map: p.nodes()}, nil
}

// script builds a stream from fuzzed bytes: raw ones, or frames whose headers and checksums are right, so
// that what is wrong in them lies deeper.
//
//	op: 0 the rest as it is; 1-5 a frame of that type: u16 head length, head, u16 payload length, payload;
//	+8: the payload's claimed length follows, u64, whatever there is of it; +16, +32, ...: its encoding
func script(ops []byte) (out []byte) {
	take := func(n int) []byte {
		n = min(n, len(ops))
		p := ops[:n]
		ops = ops[n:]
		return p
	}
	number := func(n int) uint64 {
		var p [8]byte
		copy(p[:], take(n))
		return binary.LittleEndian.Uint64(p[:])
	}
	for len(ops) > 0 {
		op := take(1)[0]
		kind := wire.FrameType(op & 7)
		if kind < wire.FrameBatch || kind > wire.FrameFilled {
			return append(out, ops...)
		}
		head := take(int(number(2)))
		payload := take(int(number(2)))
		claimed := uint64(len(payload))
		if op&8 != 0 {
			claimed = number(8) & (wire.MaxPayload - 1)
		}
		at := len(out)
		out = wire.AppendHeader(out, kind, head, int64(claimed))
		out[at+5] = op >> 4 // the encoding
		out = append(append(out, head...), payload...)
	}
	return out
}

// frameOps is the script of one frame.
func frameOps(kind wire.FrameType, head, payload []byte) []byte {
	ops := binary.LittleEndian.AppendUint16([]byte{byte(kind)}, uint16(len(head)))
	ops = append(ops, head...)
	ops = binary.LittleEndian.AppendUint16(ops, uint16(len(payload)))
	return append(ops, payload...)
}

// honest is the script of a whole and valid stream, with an array, bytes and a failed sample in each batch.
func honest(encoding wire.Encoding) (ops []byte) {
	var lz4 wire.BlockWriter
	for index := range int64(fuzzSamples / fuzzBatch) {
		b := &wire.Batch{}
		b.Reset(index)
		var payload []byte
		x, y := b.Field("x"), b.Field("jpg")
		add := func(it wire.Item, data []byte) {
			it.Size, it.Sum = int64(len(data)), xxh3.Hash(data)
			b.Items = append(b.Items, it)
			payload = append(payload, data...)
		}
		for i := range fuzzBatch {
			if i == 5 {
				b.Samples = append(b.Samples, wire.Sample{Slot: i, Failed: true, Code: []byte("corrupt"), Message: []byte("m")})
				continue
			}
			b.Samples = append(b.Samples, wire.Sample{Slot: i, Key: []byte{'k', byte(i)}})
			add(wire.Item{Sample: i, Field: x, DType: wire.Float32, NDim: 1, Dims: [wire.MaxDims]int64{2}}, make([]byte, 8))
			add(wire.Item{Sample: i, Field: y}, bytes.Repeat([]byte{byte(i)}, i))
		}
		if encoding == wire.Inline {
			ops = append(ops, frameOps(wire.FrameBatch, b.Append(nil), payload)...)
			continue
		}
		frame := frameOps(wire.FrameBatch, b.Append(nil), lz4.Encode(payload))
		frame[0] |= 8 | byte(encoding)<<4
		ops = append(ops, binary.LittleEndian.AppendUint64(frame, uint64(len(payload)))...)
	}
	batches := int64(fuzzSamples / fuzzBatch)
	ops = append(ops, frameOps(wire.FrameChunk, wire.Chunk{Next: batches, Samples: fuzzSamples}.Append(nil), nil)...)
	return append(ops, frameOps(wire.FrameEnd, wire.Chunk{Next: batches, Samples: fuzzSamples}.Append(nil), nil)...)
}

// claims is the script of a frame that promises a terabyte.
func claims(bytes uint64) []byte {
	b := &wire.Batch{}
	b.Reset(0)
	b.Samples = append(b.Samples, wire.Sample{Key: []byte("k")})
	b.Items = append(b.Items, wire.Item{Field: b.Field("x"), Size: int64(bytes)})
	ops := frameOps(wire.FrameBatch, b.Append(nil), []byte("xyz"))
	ops[0] |= 8
	return binary.LittleEndian.AppendUint64(ops, bytes)
}

// wide is the script of a frame of as many fields as there may be, one small array each.
func wide() []byte {
	b := &wire.Batch{}
	b.Reset(0)
	b.Samples = append(b.Samples, wire.Sample{Key: []byte("k")})
	for i := range 3000 {
		b.Items = append(b.Items, wire.Item{Field: b.Field(string(binary.AppendUvarint(nil, uint64(i+1)))), DType: wire.Bool, NDim: 1, Dims: [wire.MaxDims]int64{1}, Size: 1, Sum: xxh3.Hash([]byte{0})})
	}
	return frameOps(wire.FrameBatch, b.Append(nil), make([]byte, 3000))
}

// FuzzLoader: whatever a target sends, the loader ends with batches that can be read or a clean error,
// soon, and takes no more memory than what arrived is worth.
func FuzzLoader(f *testing.F) {
	f.Add(honest(wire.Inline))
	f.Add(honest(wire.LZ4))
	f.Add(honest(wire.Placed))
	f.Add(append([]byte{0}, script(honest(wire.Inline))...))
	f.Add(honest(wire.Inline)[:200])
	f.Add(claims(1<<40 - 1))
	f.Add(claims(3 << 30))
	f.Add(wide())
	f.Add(frameOps(wire.FrameError, wire.Failure{Code: api.CodeBusy, Message: "later"}.Append(nil), nil))
	f.Add(frameOps(wire.FrameEnd, wire.Chunk{Next: 8}.Append(nil), nil))
	f.Add(append([]byte{0}, wire.AppendHeader(nil, wire.FrameBatch, nil, 0)[:20]...))
	p := newImpostor(f)
	f.Fuzz(func(t *testing.T, ops []byte) {
		p.say(script(ops))
		timeout := fuzzTimeout
		if len(ops)%8 == 0 {
			timeout = fuzzPatience
		}
		l, err := loader.New(loader.Config{
			Sources: []string{"ss://b/"}, BatchSize: fuzzBatch, Shuffle: "none", Prefetch: 2, OnError: loader.Skip, Timeout: timeout,
		}, p)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		require.NoError(t, l.Start(loader.Run{}))
		for range fuzzSamples/fuzzBatch + 1 {
			slot, at, err := l.Next(patience)
			if err != nil {
				require.NotErrorIs(t, err, loader.ErrTimeout)
				code, message := loader.Describe(err)
				require.True(t, errors.Is(err, loader.ErrEnd) || code != "" && message != "")
				break
			}
			mem, err := l.View(slot)
			require.NoError(t, err)
			require.LessOrEqual(t, len(arena.Read(mem, at).Keys), fuzzBatch)
			require.NoError(t, l.Release(slot))
		}
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(fuzzMemory))
	})
}

// TestHonestScriptIsAStream: the fuzzer's seed is one that a loader reads to its end.
func TestHonestScriptIsAStream(t *testing.T) {
	for _, encoding := range []wire.Encoding{wire.Inline, wire.LZ4} {
		p := newImpostor(t)
		p.say(script(honest(encoding)))
		l, err := loader.New(loader.Config{Sources: []string{"ss://b/"}, BatchSize: fuzzBatch, Shuffle: "none", OnError: loader.Skip}, p)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		require.NoError(t, l.Start(loader.Run{}))
		got, err := drain(t, l)
		require.NoError(t, err)
		require.Len(t, keysOf(got), fuzzSamples*7/8)
		require.EqualValues(t, fuzzSamples/8, l.Stats().Skipped)
	}
}

// TestClaimedTerabyteIsNotBelieved: a loader refuses a batch beyond its bound before it takes memory for it.
func TestClaimedTerabyteIsNotBelieved(t *testing.T) {
	for name, c := range map[string]struct {
		ops  []byte
		want string
	}{
		"a terabyte":    {claims(1<<40 - 1), "max_batch_bytes"},
		"5 GiB":         {claims(5 << 30), "max_batch_bytes"},
		"2 GiB, unsent": {claims(2 << 30), "no progress from target-1"},
		"3,000 fields":  {wide(), "no progress from target-1"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newImpostor(t)
			p.say(script(c.ops))
			l, err := loader.New(loader.Config{Sources: []string{"ss://b/"}, BatchSize: fuzzBatch, Shuffle: "none", Timeout: 200 * time.Millisecond}, p)
			require.NoError(t, err)
			defer func() { require.NoError(t, l.Close()) }()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			require.NoError(t, l.Start(loader.Run{}))
			_, err = drain(t, l)
			require.ErrorContains(t, err, c.want)
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(fuzzMemory))
		})
	}
}
