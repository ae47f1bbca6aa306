package slices_test

import (
	"archive/tar"
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
		Targets: targets, Disks: 1, LeaseTTL: 5 * time.Second, // targets are stopped, not killed: their leases end at once
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
	require.Zero(t, kinds(t, c, "large")[api.KindCache], "telling of an object does not take its bytes")
	r, err := c.Client.GetObject(t.Context(), "e", "large", api.GetOptions{Offset: 1_000_000, Length: 500_000})
	require.NoError(t, err)
	part, err := io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data[1_000_000:1_500_000], part))
	require.Equal(t, map[string]int{api.KindCache: 1, api.KindStub: 2, api.KindSlice: 6}, kinds(t, c, "large"))

	var shard bytes.Buffer
	tape := tar.NewWriter(&shard)
	for i := range 20 {
		require.NoError(t, tape.WriteHeader(&tar.Header{Name: fmt.Sprintf("%02d.bin", i), Mode: 0o600, Size: 20_000}))
		_, err := tape.Write(random(20_000, byte(i)))
		require.NoError(t, err)
	}
	require.NoError(t, tape.Close())
	put(t, c, "shard.tar", shard.Bytes())
	_, err = c.Client.Evict(t.Context(), "e", "shard")
	require.NoError(t, err)
	r, err = c.Client.GetObject(t.Context(), "e", "shard.tar", api.GetOptions{Member: "07.bin"})
	require.NoError(t, err)
	part, err = io.ReadAll(r)
	require.NoError(t, err)
	require.True(t, bytes.Equal(random(20_000, 7), part))
	require.NoError(t, c.Client.DeleteObject(t.Context(), "e", "shard.tar"))

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
	yes := true
	_, err := c.Client.CreateBucketWith(t.Context(), "degraded", api.BucketChange{EC: &api.EC{Data: 4, Parity: 2}, Degraded: &yes})
	require.NoError(t, err)
	want := map[string][]byte{}
	for i := range 12 {
		key := fmt.Sprintf("%02d", i)
		want[key] = random(200_000+i*77_777, byte(i))
		put(t, c, key, want[key])
	}
	_, err = c.Client.Evict(t.Context(), "e", "")
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
	more := want["00"]
	_, err = c.Client.PutObject(t.Context(), "e", "new", bytes.NewReader(more), int64(len(more)), api.PutOptions{})
	require.ErrorContains(t, err, "takes 6 targets and 4 are up")
	_, err = c.Client.PutObject(t.Context(), "degraded", "new", bytes.NewReader(more), int64(len(more)), api.PutOptions{})
	require.NoError(t, err)
	slices := func() (n int) {
		location, err := c.Client.Locate(t.Context(), "degraded", "new")
		require.NoError(t, err)
		for _, one := range location.Copies {
			if one.Kind == api.KindSlice {
				n++
			}
		}
		return n
	}
	require.Equal(t, 4, slices())

	c.Targets[1].Start()
	c.Targets[4].Start()
	c.Await("all slices are there", func() bool { return slices() == 6 })
	for key, data := range want {
		require.True(t, bytes.Equal(data, get(t, c, key)), key)
	}
}

func away(t testing.TB, c *clustertest.Cluster) int {
	t.Helper()
	placer, err := c.Client.RefreshMap(t.Context())
	require.NoError(t, err)
	n := 0
	for _, target := range placer.Map.Targets() {
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

// flip changes a byte in the middle of a file.
func flip(t testing.TB, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], info.Size()/3)
	require.NoError(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], info.Size()/3)
	require.NoError(t, err)
}

// sound waits until no object lacks anything and nothing is where it does not belong.
func sound(t testing.TB, c *clustertest.Cluster) {
	t.Helper()
	var report api.FsckReport
	c.Await("fsck finds nothing", func() bool {
		var err error
		report, err = c.Client.Fsck(t.Context())
		return err == nil && len(report.Corrupt)+len(report.Missing)+len(report.Stray) == 0
	})
}

// TestDamagedSlices: a slice that turns out to be damaged is read around, put aside, and made anew.
func TestDamagedSlices(t *testing.T) {
	c := coded(t, 6)
	data := random(2_500_000, 1)
	put(t, c, "x", data)
	evict := func() {
		c.Await("the whole is evicted", func() bool {
			_, err := c.Client.Evict(t.Context(), "e", "")
			require.NoError(t, err)
			return kinds(t, c, "x")[api.KindCache] == 0
		})
	}
	evict()
	location, err := c.Client.Locate(t.Context(), "e", "x")
	require.NoError(t, err)
	damaged := 0
	for _, one := range location.Copies {
		if one.Kind == api.KindSlice && one.Slice < 2 { // which are read before others
			flip(t, one.Files[0])
			damaged++
		}
	}
	require.Equal(t, 2, damaged)
	report, err := c.Client.Fsck(t.Context())
	require.NoError(t, err)
	require.Len(t, report.Corrupt, 2)
	require.True(t, bytes.Equal(data, get(t, c, "x")))
	c.Await("there are six slices again", func() bool { return kinds(t, c, "x")[api.KindSlice] == 6 })
	evict()
	require.True(t, bytes.Equal(data, get(t, c, "x")))
	sound(t, c)

	location, err = c.Client.Locate(t.Context(), "e", "x")
	require.NoError(t, err)
	for _, one := range location.Copies {
		if one.Kind == api.KindCache {
			flip(t, one.Files[0])
		}
	}
	require.True(t, bytes.Equal(data, get(t, c, "x")), "from the slices, as the whole copy is damaged")
}

// TestSlicesFollowTheMap: a target that joins gets its share, and one that is drained gives all of its own away.
func TestSlicesFollowTheMap(t *testing.T) {
	c := coded(t, 6)
	want := map[string][]byte{}
	for i := range 10 {
		key := fmt.Sprintf("%02d", i)
		want[key] = random(150_000+i*50_000, byte(i))
		put(t, c, key, want[key])
	}
	c.AddTarget()
	settled := func() bool {
		r, err := c.Client.Rebalance(t.Context())
		return err == nil && r.State == api.RebalanceIdle
	}
	c.Await("the new target has its share", settled)
	_, err := c.Client.Drain(t.Context(), c.Targets[2].ID, true)
	require.NoError(t, err)
	c.Await("the target is drained", func() bool {
		n, err := c.Client.Node(t.Context(), c.Targets[2].ID)
		return err == nil && n.Drained
	})
	c.Await("all is settled", settled)
	_, err = c.Client.Evict(t.Context(), "e", "")
	require.NoError(t, err)
	for key, data := range want {
		require.Equal(t, map[string]int{api.KindStub: 3, api.KindSlice: 6}, kinds(t, c, key), key)
		require.True(t, bytes.Equal(data, get(t, c, key)), key)
	}
	sound(t, c)
}

// TestSettingsChange: what was written in whole copies goes into slices once its bucket says so, and back.
func TestSettingsChange(t *testing.T) {
	c := coded(t, 6)
	two := 2
	_, err := c.Client.CreateBucketWith(t.Context(), "m", api.BucketChange{Mirror: &two})
	require.NoError(t, err)
	want := map[string][]byte{}
	for i := range 6 {
		key := fmt.Sprintf("%02d", i)
		want[key] = random(50_000+i*100_000, byte(i))
		_, err := c.Client.PutObject(t.Context(), "m", key, bytes.NewReader(want[key]), int64(len(want[key])), api.PutOptions{})
		require.NoError(t, err)
	}
	all := func(large, small map[string]int) func() bool {
		return func() bool {
			for key, data := range want {
				location, err := c.Client.Locate(t.Context(), "m", key)
				require.NoError(t, err)
				count := map[string]int{}
				for _, one := range location.Copies {
					count[one.Kind]++
				}
				expected := large
				if len(data) <= api.SmallObject {
					expected = small
				}
				if fmt.Sprint(count) != fmt.Sprint(expected) {
					return false
				}
			}
			return true
		}
	}
	same := func() {
		for key, data := range want {
			r, err := c.Client.GetObject(t.Context(), "m", key, api.GetOptions{})
			require.NoError(t, err)
			got, err := io.ReadAll(r)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got), key)
		}
	}
	change := func(change api.BucketChange) {
		c.Await("the change is taken", func() bool {
			_, err := c.Client.ChangeBucket(t.Context(), "m", change)
			return err == nil
		})
	}
	change(api.BucketChange{EC: &api.EC{Data: 3, Parity: 1}})
	same()
	sliced := all(map[string]int{api.KindStub: 2, api.KindSlice: 4}, map[string]int{api.KindWhole: 2})
	c.Await("large objects are in slices", func() bool {
		// A read that came after the change has left a whole copy behind, as a cache.
		_, err := c.Client.Evict(t.Context(), "m", "")
		return err == nil && sliced()
	})
	same()
	change(api.BucketChange{EC: &api.EC{}, Mirror: &two})
	same()
	c.Await("all objects are in whole copies", all(map[string]int{api.KindWhole: 2}, map[string]int{api.KindWhole: 2}))
	same()
	sound(t, c)
}
