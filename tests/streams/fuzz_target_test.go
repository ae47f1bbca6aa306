package streams_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/core/wire"
)

// startTarget starts a node that serves a stream of a few small shards.
func startTarget(t testing.TB) (addr string, info api.StreamInfo) {
	t.Helper()
	c := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	_, err := c.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	for i := range 3 {
		data := makeShard(t, i, 11, 300)
		_, err := c.Client.PutObject(t.Context(), "b", fmt.Sprintf("%d.tar", i), bytes.NewReader(data), int64(len(data)), api.PutOptions{})
		require.NoError(t, err)
	}
	info, err = c.Client.OpenStream(t.Context(), api.StreamRequest{Sources: []string{"ss://b/*.tar"}, BatchSize: 4, Shuffle: "global", WorldSize: 1})
	require.NoError(t, err)
	return c.Targets[0].Addr(), info
}

// FuzzTarget: whatever a client asks a node for, and whatever it sends after, the answer is an error or
// a stream that parses to its end.
func FuzzTarget(f *testing.F) {
	for _, r := range []wire.ReadRequest{
		{Seed: 1, Shuffle: "global", BatchSize: 4, World: 1, Workers: 1, To: 3, Chunk: 2},
		{Shuffle: "window", Slices: 2, Window: 3, BatchSize: 5, World: 2, Rank: 1, Workers: 2, Worker: 1, To: 2, Chunk: 1, Fields: []string{"cls"}},
		{Shuffle: "none", BatchSize: 4, World: 1, Workers: 1, To: 1, Chunk: 1, Slots: []int{0, 3, 3}, Verify: true},
		{Shuffle: "shards", Start: 7, BatchSize: 1 << 18, World: 1 << 20, Rank: 1<<20 - 1, Workers: 1, To: 1, Chunk: 1 << 40},
	} {
		data, err := json.Marshal(r)
		require.NoError(f, err)
		f.Add(data, []byte("more"))
	}
	addr, info := startTarget(f)
	f.Fuzz(func(t *testing.T, request, more []byte) {
		nc, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer nc.Close()
		require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
		hr, err := http.NewRequest(http.MethodPost, "http://x/v1/streams/"+info.Snapshot+"/read", bytes.NewReader(request))
		require.NoError(t, err)
		hr.Header.Set("Connection", "Upgrade")
		hr.Header.Set("Upgrade", api.StreamProtocol)
		require.NoError(t, hr.Write(nc))
		_, _ = nc.Write(more) // the target may be through already
		_ = nc.(*net.TCPConn).CloseWrite()
		all, err := io.ReadAll(nc)
		if err != nil { // it was through, and had not read all: a reset
			return
		}
		head, body, ok := bytes.Cut(all, []byte("\r\n\r\n"))
		require.True(t, ok, "%q", all)
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
			require.Regexp(t, "^HTTP/1.1 4[0-9][0-9] ", string(head))
			require.Contains(t, string(body), `"error"`)
			return
		}
		requireStream(t, info.Samples, body)
	})
}

// requireStream parses a stream to its end mark or to the error that ends it.
func requireStream(t *testing.T, total int64, data []byte) {
	t.Helper()
	var samples int64
	for {
		h, err := wire.ParseHeader(data)
		require.NoError(t, err)
		head := data[wire.HeaderSize:][:h.Head]
		data = data[wire.HeaderSize+h.Head:]
		require.NoError(t, h.CheckHead(head))
		switch h.Type {
		case wire.FrameBatch:
			var b wire.Batch
			require.NoError(t, b.Parse(head, h.Payload))
			samples += int64(len(b.Samples))
			data = data[h.Payload:]
		case wire.FrameChunk:
			_, err := wire.ParseChunk(head)
			require.NoError(t, err)
		case wire.FrameEnd:
			end, err := wire.ParseChunk(head)
			require.NoError(t, err)
			require.Equal(t, samples, end.Samples)
			require.LessOrEqual(t, samples, 2*total)
			require.Empty(t, data)
			return
		case wire.FrameError:
			e, err := wire.ParseFailure(head)
			require.NoError(t, err)
			require.NotEqual(t, api.CodeInternal, e.Code, e.Message)
			require.Empty(t, data)
			return
		}
	}
}
