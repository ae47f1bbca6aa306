package streams_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/loader"
)

// deploy gives every target a pool of one worker.
func (c *cluster) deploy(source string) {
	c.t.Helper()
	c.deployAs("f", source)
}

func (c *cluster) deployAs(name, source string) {
	c.t.Helper()
	for _, tg := range c.targets {
		p, err := etl.NewPool(etl.Definition{Name: name, Source: source, Entry: "transform", Level: api.LevelSample, Workers: 1, Timeout: 20 * time.Second}, etl.Options{Dir: c.t.TempDir()})
		require.NoError(c.t, err)
		c.t.Cleanup(func() { require.NoError(c.t, p.Close()) })
		tg.pools.byName.Store(name, p)
	}
}

func withETL(cfg *loader.Config) { cfg.ETL, cfg.BatchSize = "f", 16 }

func TestNumbersArriveAsOneColumn(t *testing.T) {
	c := newCluster(t, 2).fill(3, 21, 300)
	c.deploy(`
import random
def transform(sample):
    return {"cls": int(sample["cls"]), "size": len(sample["jpg"]) / 2, "noise": random.random(), "name": "é" + sample["__key__"]}
`)
	got := run(t, open(t, c, withETL), loader.Run{})
	require.Equal(t, c.planned(0), keysOf(got))
	for _, b := range got {
		cls, size := b.Columns["cls"], b.Columns["size"]
		require.EqualValues(t, 9, cls.DType)
		require.EqualValues(t, 0, cls.Kind, "dense")
		require.EqualValues(t, 12, size.DType)
		require.Len(t, cls.Dense, 8*len(b.Keys))
		for i, k := range b.Keys {
			var shard, at int
			_, err := fmt.Sscanf(k, "s%d/%d", &shard, &at)
			require.NoError(t, err)
			require.EqualValues(t, shard*21+at, binary.LittleEndian.Uint64(cls.Dense[8*i:]), k)
			require.Equal(t, "é"+k, string(b.Columns["name"].Ragged[i]))
		}
	}
	again := run(t, open(t, c, withETL), loader.Run{Position: got[0].Next})
	require.Equal(t, got[1:], renumber(again, 1), "random numbers are the sample's own, also after a resume")
	other := run(t, open(t, c, withETL), loader.Run{Epoch: 1})
	require.NotEqual(t, got[0].Columns["noise"], other[0].Columns["noise"])
}

func TestArraysDenseRaggedAndFailed(t *testing.T) {
	python := os.Getenv("SHARDSTREAM_PYTHON")
	if python == "" {
		python = "python3"
	}
	if out, err := exec.Command(python, "-c", "import numpy").CombinedOutput(); err != nil {
		t.Skipf("numpy is not installed for %s: %s", python, out)
	}
	c := newCluster(t, 2).fill(2, 40, 300)
	c.deploy(`
import numpy as np
def transform(sample):
    n = int(sample["cls"])
    if n == 33:
        raise ValueError("thirty-three")
    return {"image": np.full((3, 4), n, np.uint8), "tokens": np.arange(n % 5, dtype=np.int32)}
`)
	l := open(t, c, func(cfg *loader.Config) { withETL(cfg); cfg.OnError = loader.Skip })
	total := 0
	for _, b := range run(t, l, loader.Run{}) {
		image, tokens := b.Columns["image"], b.Columns["tokens"]
		require.EqualValues(t, 0, image.Kind)
		require.Equal(t, []int64{3, 4}, image.Dims)
		require.EqualValues(t, 1, tokens.Kind, "ragged")
		for i, k := range b.Keys {
			total++
			var shard, at int
			_, err := fmt.Sscanf(k, "s%d/%d", &shard, &at)
			require.NoError(t, err)
			want := byte(shard*40 + at)
			require.Equal(t, strings.Repeat(string([]byte{want}), 12), string(image.Dense[12*i:12*i+12]), k)
			require.Len(t, tokens.Ragged[i], 4*(int(want)%5))
		}
	}
	require.Equal(t, 79, total)
	require.Equal(t, []string{keyOf(0, 33)}, l.Stats().SkippedKeys)

	raising := open(t, c, withETL)
	require.NoError(t, raising.Start(loader.Run{}))
	_, err := drain(t, raising)
	var se *loader.SampleError
	require.ErrorAs(t, err, &se)
	require.Equal(t, api.CodeETLFailed, se.Code)
	require.Equal(t, keyOf(0, 33), se.Key)
	require.Contains(t, se.Message, "thirty-three")
	require.Contains(t, se.Message, "Traceback")
}

func TestMixedTypesOfAFieldAreRefused(t *testing.T) {
	c := newCluster(t, 1).fill(1, 40, 300)
	c.deploy(`
def transform(sample):
    n = int(sample["cls"])
    return {"x": n if n % 2 else float(n)}
`)
	l := open(t, c, withETL)
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	var ae *api.Error
	require.ErrorAs(t, err, &ae)
	require.Equal(t, api.CodeETLFailed, ae.Code)
	require.Contains(t, ae.Message, `field "x"`)
	require.Contains(t, ae.Message, "int64")
	require.Contains(t, ae.Message, "float64")
}

// TestSnapshotThatCountsTooManySamples: anyone may give a target a snapshot; a wrong one is an error of
// its samples, with a transformation as without.
func TestSnapshotThatCountsTooManySamples(t *testing.T) {
	for _, name := range []string{"", "f"} {
		c := newCluster(t, 1)
		c.put("train-0000.tar", makeShard(t, 0, 10, 300))
		c.shards[0].Samples = 1000
		c.seal()
		c.deploy("def transform(sample): return sample")
		l := open(t, c, func(cfg *loader.Config) { cfg.ETL = name })
		require.NoError(t, l.Start(loader.Run{}))
		_, err := drain(t, l)
		require.ErrorContains(t, err, "has no index of 1000 samples")
	}
}

func TestFieldsAreChosen(t *testing.T) {
	c := newCluster(t, 2).fill(2, 20, 300)
	for _, b := range run(t, open(t, c, func(cfg *loader.Config) { cfg.Fields = []string{"cls"} }), loader.Run{}) {
		require.Len(t, b.Columns, 1)
		require.Contains(t, b.Columns, "cls")
	}
	l := open(t, c, func(cfg *loader.Config) { cfg.Fields = []string{"png"} })
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	require.ErrorContains(t, err, `"png"`, "a misspelt field is no empty batch")
}

func TestTruncatedShardFileIsAnErrorNotACrash(t *testing.T) {
	for _, mean := range []int{1_000, 90_000} {
		t.Run(fmt.Sprint(mean), func(t *testing.T) {
			c := newCluster(t, 1).fill(1, 300, mean)
			_, files, err := c.targets[0].store.Locate("b", "train-0000.tar")
			require.NoError(t, err)
			require.NoError(t, os.Truncate(files[0], 128<<10))
			l := open(t, c, func(cfg *loader.Config) { cfg.Timeout = 2 * time.Second })
			require.NoError(t, l.Start(loader.Run{}))
			_, err = drain(t, l)
			require.ErrorContains(t, err, "train-0000.tar")
		})
	}
}
