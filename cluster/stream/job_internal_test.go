package stream

import (
	"bytes"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/decode"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/sampler"
)

// TestReleasedJobsKeepNothingOfTheirBatch: what a batch took of the budget is another's once it is given back,
// so the job that goes round must not hold on to it.
func TestReleasedJobsKeepNothingOfTheirBatch(t *testing.T) {
	data := make([]byte, keptBytes+1)
	j := &job{claim: 1}
	j.frame.Fields = []string{"a", "b"}
	for i := range j.frame.Fields {
		j.frame.Items = append(j.frame.Items, wire.Item{Field: 1 - i})
		j.segs = append(j.segs, segment{data: data})
	}
	j.byField()
	task := j.task(0, nil)
	task.data, task.values = data, append(task.values, decode.Value{Data: data})
	(&Reader{}).release(j)
	for _, seg := range j.order {
		require.Nil(t, seg.data)
	}
	require.Nil(t, j.tasks[0].data)
	require.Nil(t, j.tasks[0].values[0].Data)
}

// TestObjectsAreCompressedByTheBlock: an object that is a sample may be of any size, and no budget counts it.
func TestObjectsAreCompressedByTheBlock(t *testing.T) {
	s, err := store.Open(store.Options{Disks: []store.Disk{{ID: "disk-1", Path: t.TempDir(), Weight: 1}}})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	const size = 5*wire.BlockSize + 1
	info, err := s.Put(t.Context(), "b", "x.txt", bytes.NewReader(make([]byte, size)), store.PutOptions{Size: size})
	require.NoError(t, err)
	snap, err := sampler.NewSnapshot([]sampler.Shard{{Name: "b/x.txt", Version: info.Version, Samples: 1}})
	require.NoError(t, err)
	open := (&Server{Objects: s}).newShards(snap, true, false)
	defer open.close()
	sh := open.get(t.Context(), 0)
	require.NoError(t, sh.err)

	here, there := net.Pipe()
	go func() { _, _ = io.Copy(io.Discard, there) }() // ends with here
	defer func() { _ = here.Close() }()
	out := &sender{conn: here}
	j := &job{segs: []segment{{shard: sh}}}
	j.frame.Items = []wire.Item{{Size: size}}
	require.NoError(t, out.deflate(j))
	require.NoError(t, out.flush())
	require.LessOrEqual(t, cap(open.scratch), wire.BlockSize)
}
