package scale_test

import (
	"fmt"
	"math"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/sampler"
)

// extremes are the least, mean and most of a list of counts.
func extremes(counts []int) (least, mean, most float64) {
	least = math.Inf(1)
	for _, n := range counts {
		least, most, mean = min(least, float64(n)), max(most, float64(n)), mean+float64(n)/float64(len(counts))
	}
	return least, mean, most
}

// measurePlacement finds the owner of every shard.
func measurePlacement(t *testing.T, snap *sampler.Snapshot, ring *placement.Ring) []int16 {
	t.Helper()
	owners := make([]int16, snap.NumShards())
	start := cpuTime()
	cores := runtime.GOMAXPROCS(0)
	var group sync.WaitGroup
	for core := range cores {
		group.Go(func() {
			for i := core; i < len(owners); i += cores {
				owners[i] = int16(ring.Owner(snap.Shard(i).Name))
			}
		})
	}
	group.Wait()
	took := cpuTime() - start
	held := make([]int, targets)
	for _, o := range owners {
		held[o]++
	}
	least, mean, most := extremes(held)
	row(t, "shards of a target (nobody works all out; here for the count)", "%.0f, %.2f to %.2f of the mean; %.1f us a shard", mean, least/mean, most/mean, took.Seconds()/float64(len(owners))*1e6)
	require.Less(t, most/mean, 1+7/math.Sqrt(mean), "as even as hashing is")
	return owners
}

// measurePages counts who holds which pages, and who is asked for them.
func measurePages(t *testing.T, snap *sampler.Snapshot, ring *placement.Ring) {
	t.Helper()
	held, firstOf := make([]int, targets), make([]int, targets)
	for _, p := range snap.Pages() {
		for k, n := range ring.Rank(p.ID().String(), api.SnapshotHolders) {
			held[n]++
			if k == 0 {
				firstOf[n]++
			}
		}
	}
	_, mean, most := extremes(held)
	row(t, "pages that a target is given by the gateway", "%.1f, at most %.0f of %d", mean, most, len(snap.Pages()))
	require.Less(t, most, mean+10*math.Sqrt(mean)+10)
	_, mean, most = extremes(firstOf)
	row(t, "pages that a target serves to each other one", "%.1f, at most %.0f: requests to the busiest %d", mean, most, (targets-1)*int(math.Ceil(most/64)))
	busy := 0
	for _, n := range firstOf {
		if n > 0 {
			busy++
		}
	}
	row(t, "requests of a target for all pages, once a snapshot", "%d, to %d targets; the root from 1 of %d", busy, busy, api.SnapshotHolders)
}

// measureBatches counts what ranks and targets have to do with each other.
func measureBatches(t *testing.T, snap *sampler.Snapshot, owners []int16) {
	t.Helper()
	row(t, "targets x ranks: connections if each rank keeps one to each target", "%d a rank, %d a target, %d in all", targets, ranks, targets*ranks)
	for _, mode := range modes {
		o, err := sampler.NewOrder(snap, sampler.Shuffle{Mode: mode, Seed: 1}, 0)
		require.NoError(t, err)
		const probes = 25
		inBatch, inChunk, ofBatch, ofChunk := 0, 0, make(map[int16]bool), make(map[int16]bool)
		for probe := range probes {
			v := sampler.View{Samples: o.Samples(), BatchSize: batchSize, World: ranks, Rank: probe * (ranks / probes), Workers: 1}
			require.NoError(t, v.Validate())
			clear(ofChunk)
			first := int64(probe) * max(v.Steps()-chunk, 0) / probes
			for i := first; i < min(first+chunk, v.Batches()); i++ {
				clear(ofBatch)
				b := v.Batch(i)
				for pos := b.Start; pos < b.Start+b.Count; pos++ {
					shard, _ := o.At(pos)
					ofBatch[owners[shard]], ofChunk[owners[shard]] = true, true
				}
				inBatch += len(ofBatch)
			}
			inChunk += len(ofChunk)
		}
		batches := float64(probes * min(chunk, sampler.View{Samples: o.Samples(), BatchSize: batchSize, World: ranks, Workers: 1}.Steps()))
		row(t, fmt.Sprintf("order %q: targets that hold samples of one batch, of a chunk", mode), "%.0f, %.0f of %d", float64(inBatch)/batches, float64(inChunk)/probes, targets)
		measureStep(t, o, owners)
	}
}

// measureStep is how evenly one step of all ranks falls on the targets.
func measureStep(t *testing.T, o *sampler.Order, owners []int16) {
	t.Helper()
	load := make([]int, targets)
	step := int64(ranks * batchSize)
	first := o.Samples() / 2 / step * step
	for pos := first; pos < min(first+step, o.Samples()); pos++ {
		shard, _ := o.At(pos)
		load[owners[shard]]++
	}
	_, mean, most := extremes(load)
	row(t, "  samples of a target in one step of all ranks", "%.0f, the busiest %.2f times that", mean, most/mean)
}
