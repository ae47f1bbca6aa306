package slices_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/node"
)

// coded starts a cluster with a bucket "e" whose objects are in 4+2 slices.
func coded(t testing.TB, targets int) *clustertest.Cluster {
	t.Helper()
	cluster := clustertest.Start(t, clustertest.Options{
		Targets: targets, Disks: 1, LeaseTTL: time.Second,
		Settings: node.Settings{HealAfter: 10 * time.Millisecond, DeleteGrace: 200 * time.Millisecond, StrayGrace: time.Second},
	})
	_, err := cluster.Client.CreateBucketWith(t.Context(), "e", api.BucketChange{EC: &api.EC{Data: 4, Parity: 2}})
	require.NoError(t, err)
	return cluster
}

func random(size int, seed byte) []byte {
	p := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
	return p
}

func put(t testing.TB, c *clustertest.Cluster, key string, data []byte) api.Object {
	t.Helper()
	o, err := c.Client.PutObject(t.Context(), "e", key, bytes.NewReader(data), int64(len(data)), api.PutOptions{})
	require.NoError(t, err)
	return o
}

func get(t testing.TB, c *clustertest.Cluster, key string) []byte {
	t.Helper()
	r, err := c.Client.GetObject(t.Context(), "e", key, api.GetOptions{})
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return data
}

// kinds counts an object's copies and slices of its newest version.
func kinds(t testing.TB, c *clustertest.Cluster, key string) map[string]int {
	t.Helper()
	location, err := c.Client.Locate(t.Context(), "e", key)
	require.NoError(t, err)
	count := map[string]int{}
	for _, one := range location.Copies {
		if one.Version == location.Version {
			count[one.Kind]++
		} else {
			count["older "+one.Kind]++
		}
	}
	return count
}

// TestObjectsAreInSlices follows an object from its write to its end.
func TestObjectsAreInSlices(t *testing.T) {
	c := coded(t, 6)
	for _, size := range []int{0, 1000, api.SmallObject} {
		put(t, c, "small", random(size, 1))
		require.Equal(t, map[string]int{api.KindWhole: 3}, kinds(t, c, "small"))
		require.True(t, bytes.Equal(random(size, 1), get(t, c, "small")))
	}
	data := random(3_000_001, 2)
	put(t, c, "large", data)
	require.Equal(t, map[string]int{api.KindCache: 1, api.KindStub: 2, api.KindSlice: 6}, kinds(t, c, "large"))
	require.True(t, bytes.Equal(data, get(t, c, "large")))

	done, err := c.Client.Evict(t.Context(), "e", "")
	require.NoError(t, err)
	require.Equal(t, api.Evicted{Objects: 1, Bytes: int64(len(data))}, done)
	require.Equal(t, map[string]int{api.KindStub: 3, api.KindSlice: 6}, kinds(t, c, "large"))
	o, err := c.Client.StatObject(t.Context(), "e", "large")
	require.NoError(t, err)
	require.EqualValues(t, len(data), o.Size)
	r, err := c.Client.GetObject(t.Context(), "e", "large", api.GetOptions{Offset: 1_000_000, Length: 500_000})
	require.NoError(t, err)
	part, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data[1_000_000:1_500_000], part))
	require.Equal(t, map[string]int{api.KindCache: 1, api.KindStub: 2, api.KindSlice: 6}, kinds(t, c, "large"))

	newer := random(500_000, 3)
	put(t, c, "large", newer)
	require.True(t, bytes.Equal(newer, get(t, c, "large")))
	c.Await("slices of the older version are gone", func() bool { return kinds(t, c, "large")["older "+api.KindSlice] == 0 })
	require.Equal(t, map[string]int{api.KindCache: 1, api.KindStub: 2, api.KindSlice: 6}, kinds(t, c, "large"))
	require.NoError(t, c.Client.DeleteObject(t.Context(), "e", "large"))
	c.Await("slices of what was deleted are gone", func() bool { return len(kinds(t, c, "large")) == 0 })
	report, err := c.Client.Fsck(t.Context())
	require.NoError(t, err)
	require.Empty(t, append(append(report.Corrupt, report.Missing...), report.Stray...))
	require.EqualValues(t, 1, report.Objects)
}

// TestTwoTargetsAreLost: with any two of six gone everything reads, and what is written then is complete once they are
// back.
func TestTwoTargetsAreLost(t *testing.T) {
	c := coded(t, 6)
	want := map[string][]byte{}
	for i := range 12 {
		key := fmt.Sprintf("%02d", i)
		want[key] = random(200_000+i*77_777, byte(i))
		put(t, c, key, want[key])
	}
	_, err := c.Client.Evict(t.Context(), "e", "")
	require.NoError(t, err)
	c.Targets[1].Stop()
	c.Targets[4].Stop()
	c.Await("the two are away", func() bool { return away(t, c) == 2 })
	for key, data := range want {
		c.Await(key+" can be read", func() bool {
			_, err := c.Client.StatObject(t.Context(), "e", key)
			return err == nil
		})
		require.True(t, bytes.Equal(data, get(t, c, key)), key)
	}
	_, err = c.Client.PutObject(t.Context(), "e", "new", bytes.NewReader(want["00"]), int64(len(want["00"])), api.PutOptions{})
	require.ErrorContains(t, err, "takes 6 targets and 4 are up")
	yes := true
	_, err = c.Client.ChangeBucket(t.Context(), "e", api.BucketChange{Degraded: &yes})
	require.NoError(t, err)
	put(t, c, "new", want["00"])
	require.Equal(t, 4, kinds(t, c, "new")[api.KindSlice])
	require.True(t, bytes.Equal(want["00"], get(t, c, "new")))

	c.Targets[1].Start()
	c.Targets[4].Start()
	c.Await("all slices are there", func() bool { return kinds(t, c, "new")[api.KindSlice] == 6 })
	for key, data := range want {
		require.True(t, bytes.Equal(data, get(t, c, key)), key)
	}
}

func away(t testing.TB, c *clustertest.Cluster) int {
	t.Helper()
	m, err := c.Client.Map(t.Context())
	require.NoError(t, err)
	n := 0
	for _, target := range m.Targets() {
		if target.Away {
			n++
		}
	}
	return n
}

// stored is how many bytes of data files a cluster has on its disks.
func stored(t testing.TB, c *clustertest.Cluster) int64 {
	t.Helper()
	var sum int64
	for _, n := range c.Targets {
		for _, dir := range n.Config.DataDirs {
			require.NoError(t, filepath.WalkDir(filepath.Join(dir, "data"), func(_ string, e os.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				info, err := e.Info()
				sum += info.Size()
				return err
			}))
		}
	}
	return sum
}

// TestOverhead: 4+2 slices take no more than 1.6 times what was written, once the cached copies are evicted.
func TestOverhead(t *testing.T) {
	c := coded(t, 6)
	var written int64
	for i := range 10 {
		data := random(200_000+i*500_000, byte(i))
		put(t, c, fmt.Sprint(i), data)
		written += int64(len(data))
	}
	require.Greater(t, stored(t, c), 2*written)
	_, err := c.Client.Evict(t.Context(), "e", "")
	require.NoError(t, err)
	overhead := float64(stored(t, c)) / float64(written)
	t.Logf("%d bytes take %.3f times as many", written, overhead)
	require.LessOrEqual(t, overhead, 1.6)
}
