package streams_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/arena"
)

// matrixShards are the sample counts of the matrix's shards: uneven, one of them of a single sample, and
// none of them a multiple of a batch.
var matrixShards = []int{6, 37, 1, 53, 29, 40, 64}

// matrixShard packs a shard whose samples differ in size and in fields; those of the first are large
// enough for sendfile(2).
func matrixShard(t testing.TB, shard int) []byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(11, uint64(shard)))
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(name string, body []byte) {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(body)), Format: tar.FormatUSTAR}))
		_, err := w.Write(body)
		require.NoError(t, err)
	}
	for i := range matrixShards[shard] {
		mean := 900
		if shard == 0 {
			mean = 40_000
		}
		body := make([]byte, mean/2+rng.IntN(mean))
		for at := range body {
			body[at] = byte(rng.Uint32())
		}
		key := keyOf(shard, i)
		add(key+".jpg", body)
		add(key+".cls", fmt.Append(nil, shard*100+i))
		if i%3 == 0 {
			add(key+".json", fmt.Appendf(nil, `{"shard":%d}`, shard))
		}
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// canonical is a sample as one byte string: its key, and its fields by name with their lengths.
func canonical(key string, fields map[string][]byte) []byte {
	out := append([]byte(key), 0)
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		out = append(append(out, name...), 0)
		out = binary.LittleEndian.AppendUint64(out, uint64(len(fields[name])))
		out = append(out, fields[name]...)
	}
	return out
}

// reference is what an epoch must be, by the tar files and the sampler alone.
type reference struct {
	samples [][][]byte // of each shard, in the order of the file
	order   map[string][][]byte
}

// newReference reads the tars with the standard library.
func newReference(t testing.TB, tars [][]byte) *reference {
	t.Helper()
	ref := &reference{order: map[string][][]byte{}}
	for _, data := range tars {
		var keys []string
		fields := map[string]map[string][]byte{}
		for r := tar.NewReader(bytes.NewReader(data)); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
			key, field, _ := strings.Cut(h.Name, ".")
			if fields[key] == nil {
				fields[key] = map[string][]byte{}
				keys = append(keys, key)
			}
			fields[key][field], err = io.ReadAll(r)
			require.NoError(t, err)
		}
		var samples [][]byte
		for _, key := range keys {
			samples = append(samples, canonical(key, fields[key]))
		}
		ref.samples = append(ref.samples, samples)
	}
	return ref
}

// epoch is the sequence of an epoch, by position.
func (ref *reference) epoch(t testing.TB, mode string, seed, epoch uint64) [][]byte {
	t.Helper()
	name := fmt.Sprint(mode, seed, epoch)
	if all := ref.order[name]; all != nil {
		return all
	}
	var shards []sampler.Shard
	for i, samples := range ref.samples {
		shards = append(shards, sampler.Shard{Name: fmt.Sprintf("b/train-%04d.tar", i), Samples: int64(len(samples))})
	}
	snap, err := sampler.NewSnapshot(shards)
	require.NoError(t, err)
	m, err := sampler.ParseMode(mode)
	require.NoError(t, err)
	o, err := sampler.NewOrder(snap, sampler.Shuffle{Mode: m, Seed: seed}, epoch)
	require.NoError(t, err)
	all := make([][]byte, 0, snap.Samples())
	for pos := range snap.Samples() {
		shard, i := o.At(pos)
		all = append(all, ref.samples[shard][i])
	}
	ref.order[name] = all
	return all
}

// collect puts the samples of batches at their positions; a position that was taken before is an error.
func collect(got [][]byte, batches []arena.Batch) error {
	for _, b := range batches {
		for i, key := range b.Keys {
			if b.Mask != nil && b.Mask[i] == 0 {
				continue // padding
			}
			pos := b.Start + int64(i)
			if pos >= int64(len(got)) || got[pos] != nil {
				return fmt.Errorf("sample %s came at position %d, which is taken or outside", key, pos)
			}
			fields := map[string][]byte{}
			for name, c := range b.Columns {
				if c.Ragged[i] != nil {
					fields[name] = c.Ragged[i]
				}
			}
			got[pos] = canonical(key, fields)
		}
	}
	return nil
}
