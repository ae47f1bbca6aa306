package sampler_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
)

// The order is a promise to every checkpoint that was ever written. If this test fails, the change
// breaks the resume of running jobs: either undo it, or raise sampler.Version and add to the table.
func TestTheOrderNeverChanges(t *testing.T) {
	require.Equal(t, 1, sampler.Version)
	shards := make([]sampler.Shard, 23)
	for i := range shards {
		shards[i] = sampler.Shard{Name: fmt.Sprintf("golden/%02d.tar", i), Version: uint64(i) << 40, Samples: int64(i*i*7) % 301}
	}
	snap := snapshot(t, shards)
	require.Equal(t, int64(3087), snap.Samples())
	require.Equal(t, "e4f4c540edb5a44bf6ae1309ccc670cf36a65f08026b7475ed18b40aa10051b9", snap.ID())
	for _, c := range []struct {
		shuffle sampler.Shuffle
		epoch   uint64
		head    []int64 // the first samples
		hash    string  // of the whole sequence
	}{
		{sampler.Shuffle{Mode: sampler.Global}, 0, []int64{2435, 2835, 896, 1524, 2044, 2503}, "82190ec18e9a2af8"},
		{sampler.Shuffle{Mode: sampler.Global}, 1, []int64{1088, 1144, 359, 31, 1569, 2856}, "a2bc2d01ee670e44"},
		{sampler.Shuffle{Mode: sampler.Global, Seed: 42}, 0, []int64{2552, 3066, 940, 2455, 449, 2712}, "7728fc12529986f6"},
		{sampler.Shuffle{Mode: sampler.Window}, 0, []int64{1642, 1965, 1408, 2776, 497, 245}, "fcacf320f3023f8a"},
		{sampler.Shuffle{Mode: sampler.Window, Seed: 42, Slices: 3, Window: 7}, 9, []int64{977, 935, 395, 1137, 815, 182}, "9ae9c393d4d197db"},
		{sampler.Shuffle{Mode: sampler.Shards, Seed: 42}, 3, []int64{679, 680, 681, 682, 683, 684}, "defe1957c857493c"},
		{sampler.Shuffle{Mode: sampler.None, Seed: 42}, 3, []int64{0, 1, 2, 3, 4, 5}, "74f3542d2c30cbce"},
	} {
		o := order(t, snap, c.shuffle, c.epoch)
		seq := sequence(o)
		require.Equal(t, c.head, seq[:len(c.head)], "%+v, epoch %d", c.shuffle, c.epoch)
		require.Equal(t, c.hash, hashOf(seq), "%+v, epoch %d", c.shuffle, c.epoch)
	}
}

// Domains that are too large to walk, at a few places.
func TestLargeOrdersNeverChange(t *testing.T) {
	snap := equalShards(t, 1000, 1e9)
	for _, c := range []struct {
		mode sampler.Mode
		want [3]int64
	}{
		{sampler.Global, [3]int64{469196947644, 261146596822, 121054342370}},
		{sampler.Window, [3]int64{587312111858, 948181369285, 299954145667}},
		{sampler.Shards, [3]int64{544000000000, 194456789012, 291999999999}},
		{sampler.None, [3]int64{0, 123456789012, 999999999999}},
	} {
		o := order(t, snap, sampler.Shuffle{Mode: c.mode, Seed: 42}, 7)
		require.Equal(t, c.want, [3]int64{o.Sample(0), o.Sample(123_456_789_012), o.Sample(999_999_999_999)}, c.mode.String())
	}
}

// More slots than are laid out one by one.
func TestOrdersOfManyShardsNeverChange(t *testing.T) {
	shards := make([]sampler.Shard, 300_000)
	for i := range shards {
		shards[i] = sampler.Shard{Name: fmt.Sprintf("b/train-%06d.tar", i), Version: uint64(i) << 40, Samples: int64(i) * 7919 % 1301}
		if i%11 == 0 {
			shards[i].Samples = 0
		}
	}
	snap := snapshot(t, shards)
	for _, c := range []struct {
		mode sampler.Mode
		want [3]int64
	}{
		{sampler.Global, [3]int64{150899911, 118898898, 102280562}},
		{sampler.Window, [3]int64{132098504, 164434600, 111410545}},
		{sampler.Shards, [3]int64{123750902, 89406808, 3879796}},
		{sampler.None, [3]int64{0, 123456789, 177271042}},
	} {
		o := order(t, snap, sampler.Shuffle{Mode: c.mode, Seed: 5}, 3)
		for i, pos := range []int64{0, 123_456_789, o.Samples() - 1} {
			require.Equal(t, c.want[i], o.Sample(pos), c.mode.String())
			require.Equal(t, pos, o.Position(c.want[i]), c.mode.String())
		}
	}
}

func hashOf(seq []int64) string {
	h := sha256.New()
	for _, s := range seq {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(s)))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// The same promise for mixtures.
func TestMixturesNeverChange(t *testing.T) {
	sizes, draws := []int64{301, 50, 1200, 9}, []int64{280, 120, 600, 40}
	for _, c := range []struct {
		interleave sampler.Interleave
		unit       int64
		modes      []sampler.Mode
		epoch      uint64
		head       []int64
		hash       string
	}{
		{sampler.Random, 0, nil, 0, []int64{411, 216, 107, 180, 51, 100}, "f59777936ed8f4f7"},
		{sampler.Random, 0, nil, 3, []int64{610, 53, 1184, 29, 900, 188}, "d2f04155fa38b09a"},
		{sampler.Stratified, 0, nil, 3, []int64{1341, 144, 1089, 472, 338, 1160}, "108ddc32fa95805e"},
		{sampler.Stratified, 0, []sampler.Mode{sampler.Window, sampler.None, sampler.Shards, sampler.Global}, 3, []int64{951, 157, 952, 953, 311, 954}, "82881022f55b68f1"},
		{sampler.PerSource, 40, nil, 3, []int64{144, 138, 250, 154, 122, 155}, "111600d8f53e13e2"},
	} {
		plan := mix(t, sampler.Blend{Interleave: c.interleave, Unit: c.unit, Seed: 42}, sizes, draws, c.modes...).plan(t, c.epoch)
		seq := make([]int64, plan.Samples())
		for pos := range seq {
			seq[pos] = plan.Sample(int64(pos))
		}
		require.Equal(t, c.head, seq[:6], "%v, epoch %d", c.interleave, c.epoch)
		require.Equal(t, c.hash, hashOf(seq), "%v, epoch %d", c.interleave, c.epoch)
	}
}
