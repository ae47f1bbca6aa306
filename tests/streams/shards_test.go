package streams_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/loader"
)

// victim is the shard that is damaged, of four on two targets.
const (
	victim       = 1
	shardSamples = 60
)

// edit opens the victim's file, and its index as it was.
func (c *cluster) edit(t *testing.T, change func(f *os.File, x *archive.Index)) {
	t.Helper()
	tg := c.targets[victim%len(c.targets)]
	name := fmt.Sprintf("train-%04d.tar", victim)
	o, err := tg.store.Open("b", name)
	require.NoError(t, err)
	x, err := o.Index()
	require.NoError(t, err)
	require.NoError(t, o.Close())
	_, files, err := tg.store.Locate("b", name)
	require.NoError(t, err)
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	change(f, x)
}

// memberAt is where a sample's first member lies.
func memberAt(x *archive.Index, sample int) archive.Member {
	first, _ := x.Sample(sample)
	return x.Member(first)
}

// lose overwrites a stretch of a file with zeros, as a disk does that lost some blocks.
func lose(t *testing.T, f *os.File, from, to int64) {
	t.Helper()
	_, err := f.WriteAt(make([]byte, to-from), from)
	require.NoError(t, err)
}

// reopen starts the victim's target anew: it has no index in memory then.
func (c *cluster) reopen(t *testing.T) {
	t.Helper()
	tg := c.targets[victim%len(c.targets)]
	require.Eventually(t, func() bool { // streams that were read read from the store until they find out
		tg.mu.Lock()
		defer tg.mu.Unlock()
		return len(tg.conns) == 0
	}, patience, time.Millisecond)
	require.NoError(t, tg.store.Close())
	var err error
	tg.store, err = store.Open(store.Options{Disks: []store.Disk{{ID: "disk-1", Path: tg.dir, Weight: 1}}})
	require.NoError(t, err)
	tg.srv.Objects = tg.store
}

// TestDamagedShards: what is wrong with one shard is an error that names it and the place, or costs its own
// samples only: those of the others keep their order and their batches.
func TestDamagedShards(t *testing.T) {
	cutAt := func(size func(x *archive.Index) int64) func(*testing.T, *os.File, *archive.Index) {
		return func(t *testing.T, f *os.File, x *archive.Index) { t.Helper(); require.NoError(t, f.Truncate(size(x))) }
	}
	from := func(first int) (lost []int) {
		for i := first; i < shardSamples; i++ {
			lost = append(lost, i)
		}
		return lost
	}
	for name, test := range map[string]struct {
		change func(t *testing.T, f *os.File, x *archive.Index)
		lost   []int // while the target has the index
		cold   []int // once it has not: with a file's end its index is gone
	}{
		"cut at a member boundary": {
			cutAt(func(x *archive.Index) int64 { return memberAt(x, 20).Offset - 512 }), from(20), from(0),
		},
		"cut inside a member": {
			cutAt(func(x *archive.Index) int64 { return memberAt(x, 20).Offset + memberAt(x, 20).Size/2 }), from(20), from(0),
		},
		"cut off but for a few bytes": {
			cutAt(func(*archive.Index) int64 { return 10 }), from(0), from(0),
		},
		"a hole of whole members": {
			func(t *testing.T, f *os.File, x *archive.Index) {
				lose(t, f, memberAt(x, 20).Offset, memberAt(x, 23).Offset-512)
			},
			[]int{20, 21, 22},
			[]int{20, 21, 22},
		},
		"a hole inside a member": {
			func(t *testing.T, f *os.File, x *archive.Index) {
				at := memberAt(x, 20).Offset + memberAt(x, 20).Size/2
				lose(t, f, at, at+8)
			},
			[]int{20},
			[]int{20},
		},
		"a hole in a header, which nothing reads": {
			func(t *testing.T, f *os.File, x *archive.Index) {
				lose(t, f, memberAt(x, 20).Offset-512, memberAt(x, 20).Offset)
			},
			nil, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 2).fill(4, shardSamples, 6_000)
			c.edit(t, func(f *os.File, x *archive.Index) { test.change(t, f, x) })
			c.checkNamed(t, len(test.lost) > 0)
			c.checkLoss(t, test.lost)
			c.reopen(t)
			c.checkNamed(t, len(test.cold) > 0)
			c.checkLoss(t, test.cold)
		})
	}
}

// checkNamed streams without skips and expects an error that says where the damage is.
func (c *cluster) checkNamed(t *testing.T, damaged bool) {
	t.Helper()
	l := open(t, c, nil)
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	require.NoError(t, l.Close())
	if !damaged {
		require.NoError(t, err)
		return
	}
	var se *loader.SampleError
	require.ErrorAs(t, err, &se)
	require.Equal(t, api.CodeCorrupt, se.Code)
	require.Contains(t, se.Message, fmt.Sprintf("train-%04d.tar", victim))
	require.Regexp(t, `byte \d+`, se.Message)
}

// checkLoss streams with skips and expects all samples but those lost of the victim, in their order and in as
// many batches.
func (c *cluster) checkLoss(t *testing.T, lost []int) {
	t.Helper()
	var names []string
	for _, i := range lost {
		names = append(names, keyOf(victim, i), fmt.Sprintf("ss://b/train-%04d.tar#%d", victim, i))
	}
	want := slices.DeleteFunc(c.planned(0), func(k string) bool { return slices.Contains(names, k) })
	for _, pad := range []bool{false, true} {
		l := open(t, c, func(cfg *loader.Config) { cfg.OnError, cfg.Pad = loader.Skip, pad })
		got := run(t, l, loader.Run{})
		require.Len(t, got, int(c.snap.Samples()+31)/32)
		require.Equal(t, want, keysOf(got))
		stats := l.Stats()
		require.EqualValues(t, len(lost), stats.Skipped)
		require.Len(t, stats.SkippedKeys, len(lost))
		require.NoError(t, l.Close())
		for _, key := range stats.SkippedKeys {
			require.Contains(t, names, key)
		}
	}
}

// TestWrongCounts: a snapshot that miscounts a shard, which none of ours does, is no shift of its samples.
func TestWrongCounts(t *testing.T) {
	for _, count := range []int64{1, shardSamples - 1, shardSamples + 1, shardSamples * 3} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			c := newCluster(t, 2).fill(4, shardSamples, 500)
			c.shards[victim].Samples = count
			c.seal()
			l := open(t, c, nil)
			require.NoError(t, l.Start(loader.Run{}))
			_, err := drain(t, l)
			require.ErrorContains(t, err, fmt.Sprintf("train-%04d.tar has no index of %d samples", victim, count))

			skipping := open(t, c, func(cfg *loader.Config) { cfg.OnError = loader.Skip })
			keys := keysOf(run(t, skipping, loader.Run{}))
			require.Len(t, keys, 3*shardSamples)
			require.False(t, slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, fmt.Sprintf("s%03d/", victim)) }))
			require.Equal(t, count, skipping.Stats().Skipped)
		})
	}
}
