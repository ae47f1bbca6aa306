package streams_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image/color"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/sampler"
)

// putObjects stores one object for each sample, dealt to the targets in turn.
func (c *cluster) putObjects(n int, data func(i int) (name string, data []byte)) *cluster {
	c.t.Helper()
	for i := range n {
		name, data := data(i)
		tg := c.targets[i%len(c.targets)]
		info, err := tg.store.Put(c.t.Context(), "b", name, bytes.NewReader(data), store.PutOptions{Size: int64(len(data))})
		require.NoError(c.t, err)
		c.shards = append(c.shards, sampler.Shard{Name: "b/" + name, Version: info.Version, Samples: 1})
	}
	c.seal()
	return c
}

func objects(cfg *loader.Config) { cfg.Samples = api.SamplesObjects }

// body is what object i holds: of every size that is sent in a way of its own, none among them.
func body(i int) []byte {
	return bytes.Repeat([]byte{byte(i), byte(i >> 8), 7}, []int{0, 5, 1_000, 5_000, 20_000, 100_000}[i%6])
}

func TestObjectsAreSamples(t *testing.T) {
	// More than a stream keeps open.
	const n = 1_300
	c := newCluster(t, 2).putObjects(n, func(i int) (string, []byte) { return fmt.Sprintf("cats/%06d.jpg", i), body(i) })
	for _, shared := range []bool{false, true} {
		l := open(t, c, func(cfg *loader.Config) { objects(cfg); cfg.SharedMemory = shared })
		seen := map[string]bool{}
		for epoch := range uint64(2) {
			clear(seen)
			for _, b := range run(t, l, loader.Run{Epoch: epoch}) {
				require.Len(t, b.Columns, 1)
				for i, k := range b.Keys {
					var number int
					_, err := fmt.Sscanf(k, "cats/%d", &number)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprintf("cats/%06d", number), k)
					require.True(t, bytes.Equal(body(number), b.Columns["jpg"].Ragged[i]), k)
					seen[k] = true
				}
			}
			require.Len(t, seen, n)
		}
		require.Zero(t, l.Stats().Retries, "nothing arrived damaged, to be asked for again")
	}
}

func TestObjectsAreDecodedAndTransformed(t *testing.T) {
	c := newCluster(t, 2).putObjects(50, func(i int) (string, []byte) {
		return fmt.Sprintf("%03d.tar.png", i), []byte(picture(t, 4, 3, color.NRGBA{uint8(i), 1, 2, 255}))
	})
	c.deploy(`
def transform(sample):
    return {"n": len(sample["tar.png"]), "key": sample["__key__"]}
`)
	for _, b := range run(t, open(t, c, func(cfg *loader.Config) { objects(cfg); cfg.Decode = map[string]any{"tar.png": "rgb8"} }), loader.Run{}) {
		require.Equal(t, []int64{3, 4, 3}, b.Columns["tar.png"].Dims)
		for i, k := range b.Keys {
			require.Equal(t, k, fmt.Sprintf("%03d", b.Columns["tar.png"].Dense[36*i]))
		}
	}
	for _, b := range run(t, open(t, c, func(cfg *loader.Config) { objects(cfg); withETL(cfg) }), loader.Run{}) {
		for i, k := range b.Keys {
			require.Equal(t, k, string(b.Columns["key"].Ragged[i]))
			require.Positive(t, binary.LittleEndian.Uint64(b.Columns["n"].Dense[8*i:]))
		}
	}
}

func TestDamagedObjectIsNamed(t *testing.T) {
	for _, etl := range []string{"", "f"} {
		for _, size := range []int{3, 50_000} {
			c := newCluster(t, 1).putObjects(20, func(i int) (string, []byte) {
				return fmt.Sprintf("%03d.bin", i), bytes.Repeat([]byte{byte(i)}, size)
			})
			c.deploy("def transform(sample): return {'x': sample['bin']}")
			_, files, err := c.targets[0].store.Locate("b", "007.bin")
			require.NoError(t, err)
			data, err := os.ReadFile(files[0])
			require.NoError(t, err)
			data[1] ^= 1
			require.NoError(t, os.WriteFile(files[0], data, 0o600))
			l := open(t, c, func(cfg *loader.Config) { objects(cfg); cfg.ETL = etl })
			require.NoError(t, l.Start(loader.Run{}))
			_, err = drain(t, l)
			var se *loader.SampleError
			require.ErrorAs(t, err, &se)
			require.Equal(t, api.CodeCorrupt, se.Code)
			require.Equal(t, "007", se.Key)
			require.Contains(t, se.Message, "007.bin")
		}
	}
}

// TestOverwrittenObjectIsSaid: the order was planned on the earlier one.
func TestOverwrittenObjectIsSaid(t *testing.T) {
	c := newCluster(t, 1).putObjects(20, func(i int) (string, []byte) { return fmt.Sprintf("%03d.bin", i), body(i) })
	_, err := c.targets[0].store.Put(t.Context(), "b", "003.bin", bytes.NewReader([]byte("new")), store.PutOptions{Size: 3})
	require.NoError(t, err)
	l := open(t, c, objects)
	require.NoError(t, l.Start(loader.Run{}))
	_, err = drain(t, l)
	require.ErrorContains(t, err, "003.bin was overwritten")
}

// TestShardsReadAsObjects: a request that takes shards for objects, or the other way round, is an error.
func TestShardsReadAsObjects(t *testing.T) {
	c := newCluster(t, 1).fill(1, 20, 300)
	l := open(t, c, objects)
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	require.ErrorContains(t, err, "is not one sample")
	c = newCluster(t, 1).putObjects(20, func(i int) (string, []byte) { return fmt.Sprintf("%03d.bin", i), body(i) })
	l = open(t, c, nil)
	require.NoError(t, l.Start(loader.Run{}))
	_, err = drain(t, l)
	require.ErrorContains(t, err, "has no index of 1 samples")
	_, err = loader.New(loader.Config{Sources: []string{"ss://b/"}, BatchSize: 1, Shuffle: "none", Samples: "files"}, c)
	require.ErrorContains(t, err, "shards or objects")
}
