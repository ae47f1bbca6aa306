package scale_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

var wholeBucket = api.StreamRequest{Sources: []string{"ss://b/"}, BatchSize: 256, Shuffle: "global", WorldSize: 1}

// wide makes names so long that a few thousand shards are a snapshot of many pages, too large to travel
// in one piece.
func wide(i int) api.Object {
	sum := sha256.Sum256(fmt.Append(nil, i))
	return api.Object{Name: fmt.Sprintf("%06d-%s.tar", i, strings.Repeat(hex.EncodeToString(sum[:]), 14)), Archive: "tar", Version: 1, Samples: 1000, Size: 1 << 20}
}

func TestPagesAreSpreadOverAllTargets(t *testing.T) {
	const shards, targets = 24_000, 20
	c := startStubs(t, targets)
	c.deal(t, shards, wide)
	info, err := c.Client.OpenStream(t.Context(), wholeBucket)
	require.NoError(t, err)
	require.Equal(t, int64(shards), info.Shards)
	require.Equal(t, int64(shards*1000), info.Samples)

	holders, copies, most := 0, 0, 0
	for _, s := range c.targets {
		holders += len(s.roots)
		copies += len(s.pages)
		most = max(most, len(s.pages))
	}
	pages := len(c.shared.pages)
	require.Greater(t, pages, 50)
	require.Equal(t, api.SnapshotHolders, holders)
	require.Equal(t, api.SnapshotHolders*pages, copies, "each page is on some targets")
	require.Less(t, most, 3*copies/targets, "and no target has many more than its share")
	asked := c.asked()
	require.LessOrEqual(t, asked["put pages"], 2*targets)
	require.Equal(t, api.SnapshotHolders, asked["put snapshot"])

	// Again: nothing is sent.
	again, err := c.Client.OpenStream(t.Context(), wholeBucket)
	require.NoError(t, err)
	require.Equal(t, info.Snapshot, again.Snapshot)
	asked = c.asked()
	require.Zero(t, asked["put pages"]+asked["put snapshot"], asked)
	require.Equal(t, api.SnapshotHolders, asked["head snapshot"])

	// A gateway that is asked about the run gets the pages back.
	position := int64(shards * 500)
	e, err := c.Client.Explain(t.Context(), api.ExplainRequest{StreamRequest: wholeBucket, Snapshot: info.Snapshot, Position: &position, Count: 3})
	require.NoError(t, err)
	require.Len(t, e.Samples, 3)
	require.Equal(t, info.Snapshot, e.Snapshot)
	require.Zero(t, c.asked()["list"])

	// One shard is overwritten: its page is sent, and no other.
	c.deal(t, shards, func(i int) api.Object {
		o := wide(i)
		if i == shards/2 {
			o.Version = 2
		}
		return o
	})
	before := len(c.shared.pages)
	changed, err := c.Client.OpenStream(t.Context(), wholeBucket)
	require.NoError(t, err)
	require.NotEqual(t, info.Snapshot, changed.Snapshot)
	require.Len(t, c.shared.pages, before+1)
	require.Equal(t, api.SnapshotHolders, c.asked()["put pages"])

	// The targets lose everything that they were given.
	c.shared.mu.Lock()
	clear(c.shared.pages)
	c.shared.mu.Unlock()
	for _, s := range c.targets {
		s.forget()
	}
	back, err := c.Client.OpenStream(t.Context(), wholeBucket)
	require.NoError(t, err)
	require.Equal(t, changed.Snapshot, back.Snapshot)
	require.Len(t, c.shared.pages, pages)
}

// plain is an object as it is found by the million.
func plain(i int) api.Object {
	return api.Object{
		Name: fmt.Sprintf("imagenet/train-%08d.tar", i), Archive: "tar", Version: 1_795_000_000_000_000_000 + uint64(i)*7_919_333, Samples: 1000, Size: 110_000_000,
		XXH3: "0123456789abcdef0123456789abcdef", CRC32: "01234567", ETag: `"0123456789abcdef"`, ContentType: "application/x-tar", Members: 2000, MaxSample: 200_000,
	}
}

// The ranks of a job open their streams together.
func TestRanksThatOpenTogetherShareOneListing(t *testing.T) {
	const ranks, targets, shards = 300, 12, 5000
	c := startStubs(t, targets)
	c.deal(t, shards, plain)
	first, err := c.Client.OpenStream(t.Context(), wholeBucket)
	require.NoError(t, err)
	c.asked()

	var group sync.WaitGroup
	begin := make(chan struct{})
	for rank := range ranks {
		group.Go(func() {
			<-begin
			req := wholeBucket
			req.WorldSize, req.Rank = ranks, rank
			info, err := c.Client.OpenStream(t.Context(), req)
			if err != nil || info.Snapshot != first.Snapshot || info.Batches != (first.Samples+256*ranks-1)/(256*ranks) {
				t.Errorf("rank %d: %+v, %v", rank, info.Batches, err)
			}
		})
	}
	start := time.Now()
	close(begin)
	group.Wait()
	asked := c.asked()
	t.Logf("%d opens took %v and %v", ranks, time.Since(start), asked)
	require.Less(t, asked["list"], ranks*targets/4)
	require.Zero(t, asked["put pages"]+asked["put snapshot"])
}

func TestAnOpenSeesWhatWasPutBefore(t *testing.T) {
	c := startStubs(t, 3)
	var group sync.WaitGroup
	stop := make(chan struct{})
	for range 8 { // so that there is always a listing under way
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_, _ = c.Client.OpenStream(t.Context(), wholeBucket)
				}
			}
		})
	}
	for shards := 1; shards <= 40; shards++ {
		c.deal(t, shards, plain)
		info, err := c.Client.OpenStream(t.Context(), wholeBucket)
		require.NoError(t, err)
		require.Equal(t, int64(shards), info.Shards)
	}
	close(stop)
	group.Wait()
}

func TestSourcesThatOverlap(t *testing.T) {
	c := startStubs(t, 3)
	c.deal(t, 50, plain)
	req := wholeBucket
	req.Sources = []string{"ss://b/imagenet/train-000000{00..09}.tar", "ss://b/imagenet/train-0000002*.tar", "ss://b/imagenet/train-00000015.tar"}
	info, err := c.Client.OpenStream(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, int64(21), info.Shards)
	req.Sources = append(req.Sources, "ss://b/imagenet/train-0000001*.tar")
	_, err = c.Client.OpenStream(t.Context(), req)
	require.ErrorContains(t, err, "shard ss://b/imagenet/train-00000015.tar is named by two sources")
}
