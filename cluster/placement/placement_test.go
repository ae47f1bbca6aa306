package placement_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/cluster/placement"
)

const keys = 60_000

func nodes(n int, weights ...float64) []placement.Node {
	set := make([]placement.Node, n)
	for i := range set {
		set[i] = placement.Node{ID: fmt.Sprintf("target-%d", i+1)}
		if i < len(weights) {
			set[i].Weight = weights[i]
		}
	}
	return set
}

func key(i int) string { return placement.Key("train", fmt.Sprintf("shard-%06d.tar", i)) }

func counts(set []placement.Node) map[string]int {
	ring, got := placement.NewRing(set), map[string]int{}
	for i := range keys {
		got[ring.OwnerID(key(i))]++
	}
	return got
}

func TestSharesFollowWeights(t *testing.T) {
	for _, set := range [][]placement.Node{
		nodes(1), nodes(3), nodes(16), nodes(3, 1, 2, 3), nodes(2, 0.5, 1.5), nodes(4, 10, 1, 1, 1),
	} {
		total := 0.0
		for _, n := range set {
			total += max(n.Weight, 0)
		}
		got := counts(set)
		for _, n := range set {
			share := 1 / float64(len(set))
			if total > 0 {
				share = n.Weight / total
			}
			// Five standard deviations of a binomial.
			want, slack := share*keys, 5*math.Sqrt(share*(1-share)*keys)+1
			assert.InDelta(t, want, got[n.ID], slack, "%v of %v", n, set)
		}
	}
}

func TestOnlyTheShareOfTheNewNodeMoves(t *testing.T) {
	for _, weights := range [][]float64{nil, {1, 2, 1, 3}} {
		before, after := placement.NewRing(nodes(3, weights...)), placement.NewRing(nodes(4, weights...))
		for i := range keys {
			from, to := before.OwnerID(key(i)), after.OwnerID(key(i))
			if from != to {
				require.Equal(t, "target-4", to, "%s moved between nodes that both stayed", key(i))
			}
		}
	}
}

func TestRaisingAWeightOnlyDrawsKeys(t *testing.T) {
	before, after := placement.NewRing(nodes(4, 1, 1, 1, 2)), placement.NewRing(nodes(4, 1, 1, 1, 3))
	for i := range keys {
		if from, to := before.OwnerID(key(i)), after.OwnerID(key(i)); from != to {
			require.Equal(t, "target-4", to)
		}
	}
}

// A weight that all nodes share must not matter: the two code paths have to agree.
func TestEqualWeightsAreNoWeights(t *testing.T) {
	nearly := nodes(5, 1, 1, 1, 1, math.Nextafter(1, 2))
	uniform, weighted := placement.NewRing(nodes(5)), placement.NewRing(nearly)
	for i := range keys {
		require.Equal(t, uniform.OwnerID(key(i)), weighted.OwnerID(key(i)))
	}
}

func TestOrderOfNodesDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := nodes(rapid.IntRange(1, 12).Draw(t, "n"))
		for i := range set {
			set[i].Weight = rapid.SampledFrom([]float64{0, 1, 2, 0.1}).Draw(t, "weight")
		}
		shuffled := rapid.Permutation(set).Draw(t, "shuffled")
		name := rapid.String().Draw(t, "key")
		if a, b := placement.NewRing(set).OwnerID(name), placement.NewRing(shuffled).OwnerID(name); a != b {
			t.Fatalf("%q: %s or %s, by the order of the nodes", name, a, b)
		}
	})
}

// The ranking is what one gets by taking the owner away, again and again.
func TestRankListsWhoWouldBeOwnerNext(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := nodes(rapid.IntRange(0, 9).Draw(t, "n"))
		for i := range set {
			set[i].Weight = rapid.SampledFrom([]float64{0, 1, 2, 0.1}).Draw(t, "weight")
		}
		name, most := rapid.String().Draw(t, "key"), rapid.IntRange(0, 12).Draw(t, "most")
		ring := placement.NewRing(set)
		var got []string
		for _, i := range ring.Rank(name, most) {
			got = append(got, ring.ID(i))
		}
		var want []string
		for left := slices.Clone(set); len(left) > 0 && len(want) < most; {
			i := placement.NewRing(left).Owner(name)
			want = append(want, left[i].ID)
			left = slices.Delete(left, i, i+1)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v, expected %v", got, want)
		}
	})
}

func TestEmptyRingOwnsNothing(t *testing.T) {
	assert.Equal(t, -1, placement.NewRing(nil).Owner("a/b"))
	assert.Empty(t, placement.NewRing(nil).OwnerID("a/b"))
}

// The golden answers must never change: objects are on disks where an earlier release put them.
func TestGolden(t *testing.T) {
	equal, weighted := placement.NewRing(nodes(5)), placement.NewRing(nodes(5, 1, 2, 3, 4, 0.5))
	var got string
	for i := range 20 {
		got += fmt.Sprint(equal.Owner(key(i)), weighted.Owner(key(i)), " ")
	}
	assert.Equal(t, golden, got)
}

const golden = "3 3 3 3 0 3 3 3 4 2 2 3 0 3 0 1 0 3 2 3 2 2 1 3 2 2 0 2 1 3 3 3 0 3 1 1 2 2 2 2 "

func BenchmarkOwner(b *testing.B) {
	for _, n := range []int{4, 100} {
		ring := placement.NewRing(nodes(n))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				ring.Owner("train/shard-000001.tar")
			}
		})
	}
}

// TestHundredTargets: load is within 5 % of even over 100 targets, and one that joins takes its share and nothing besides.
func TestHundredTargets(t *testing.T) {
	const targets, objects = 100, 500_000
	before, after := placement.NewRing(nodes(targets)), placement.NewRing(nodes(targets+1))
	load, moved := make([]int, targets), 0
	for i := range objects {
		owner := before.Owner(key(i))
		load[owner]++
		if after.Owner(key(i)) != owner {
			moved++
		}
	}
	for i, n := range load {
		assert.InEpsilon(t, objects/targets, n, 0.05, "target %d", i)
	}
	assert.LessOrEqual(t, float64(moved), 1.1*objects/targets)
}
