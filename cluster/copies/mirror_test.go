package copies_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// mirrored starts a cluster with a bucket "m" whose objects have so many copies.
func mirrored(t testing.TB, targets, copies int) *clustertest.Cluster {
	t.Helper()
	cluster := clustertest.Start(t, clustertest.Options{Targets: targets, Disks: 1, LeaseTTL: time.Second})
	_, err := cluster.Client.CreateBucketWith(t.Context(), "m", api.BucketChange{Mirror: &copies})
	require.NoError(t, err)
	return cluster
}

// pattern is content in which every 8 bytes differ.
func pattern(n int) []byte {
	b := make([]byte, 0, n+8)
	for i := 0; len(b) < n; i++ {
		b = append(b, fmt.Sprintf("%07x|", i)...)
	}
	return b[:n]
}

func put(t testing.TB, c *clustertest.Cluster, key string, data []byte) api.Object {
	t.Helper()
	o, err := c.Client.PutObject(t.Context(), "m", key, bytes.NewReader(data), int64(len(data)), api.PutOptions{})
	require.NoError(t, err)
	return o
}

func get(t testing.TB, c *clustertest.Cluster, key string) []byte {
	t.Helper()
	r, err := c.Client.GetObject(t.Context(), "m", key, api.GetOptions{})
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return data
}

func TestWritesAreOnAllTargetsOfTheList(t *testing.T) {
	cluster := mirrored(t, 4, 3)
	for _, size := range []int{0, 1000, 1 << 20, 5 << 20} {
		data := pattern(size)
		o := put(t, cluster, "x", data)
		location, err := cluster.Client.Locate(t.Context(), "m", "x")
		require.NoError(t, err)
		assert.Equal(t, o.Version, location.Version)
		nodes := map[string]bool{}
		for _, c := range location.Copies {
			nodes[c.Node] = true
			assert.Equal(t, o.Version, c.Version)
			assert.Equal(t, api.KindWhole, c.Kind)
		}
		assert.Len(t, nodes, 3)
		assert.Equal(t, data, get(t, cluster, "x"))
	}
	require.NoError(t, cluster.Client.DeleteObject(t.Context(), "m", "x"))
	_, err := cluster.Client.StatObject(t.Context(), "m", "x")
	require.Error(t, err)
}

// content is what an object has: it tells name and round.
func content(key string, round, size int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%s/%d|", key, round), 1+size/(len(key)+3))
}

func keys(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("dir-%d/key-%03d", i%3, i)
	}
	return list
}

// Any target may be gone: what was acknowledged is read, can be overwritten and deleted, and is as it was left when the
// target is back.
func TestATargetMayBeGone(t *testing.T) {
	for _, copies := range []int{2, 3} {
		t.Run(fmt.Sprintf("%d copies", copies), func(t *testing.T) {
			cluster := mirrored(t, 4, copies)
			names := keys(24)
			round := map[string]int{}
			for i, name := range names {
				put(t, cluster, name, content(name, 0, i*1000))
			}
			put(t, cluster, "large", content("large", 0, 5<<20))
			for n, target := range cluster.Targets[:copies] {
				target.Stop()
				for i, name := range names {
					require.Equal(t, string(content(name, round[name], i*1000)), string(get(t, cluster, name)), "%s after %d", name, n)
				}
				require.Equal(t, content("large", 0, 5<<20), get(t, cluster, "large"))
				for i, name := range names {
					switch i % 4 {
					case 1:
						round[name]++
						put(t, cluster, name, content(name, round[name], i*1000))
					case 2:
						require.NoError(t, cluster.Client.DeleteObject(t.Context(), "m", name))
						_, err := cluster.Client.StatObject(t.Context(), "m", name)
						require.ErrorContains(t, err, api.CodeNotFound)
						round[name]++
						put(t, cluster, name, content(name, round[name], i*1000))
					}
				}
				gone := fmt.Sprintf("gone-%d", n)
				put(t, cluster, gone, []byte("x"))
				require.NoError(t, cluster.Client.DeleteObject(t.Context(), "m", gone))
				target.Start()
				for i, name := range names {
					require.Equal(t, string(content(name, round[name], i*1000)), string(get(t, cluster, name)), "%s with %s back", name, target.ID)
				}
				_, err := cluster.Client.StatObject(t.Context(), "m", gone)
				require.ErrorContains(t, err, api.CodeNotFound)
			}
		})
	}
}
