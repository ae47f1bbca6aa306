package copies_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
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

// names lists a bucket page by page, and everything at once by prefixes.
func names(t testing.TB, c *clustertest.Cluster, o api.ListOptions) (objects, prefixes []string) {
	t.Helper()
	for {
		page, err := c.Client.ListObjects(t.Context(), "m", o)
		require.NoError(t, err)
		for _, object := range page.Objects {
			objects = append(objects, object.Name)
		}
		prefixes = append(prefixes, page.Prefixes...)
		if page.Next == "" {
			return objects, prefixes
		}
		o.StartAfter = page.Next
	}
}

// A listing has all that was acknowledged, and nothing that was deleted, whoever is away or has just come.
func TestListingsAreComplete(t *testing.T) {
	cluster := mirrored(t, 3, 2)
	want := map[string]bool{}
	for _, name := range keys(30) {
		put(t, cluster, name, []byte(name))
		want[name] = true
	}
	check := func(when string) {
		t.Helper()
		sorted := slices.Sorted(maps.Keys(want))
		for _, limit := range []int{7, 0} {
			got, _ := names(t, cluster, api.ListOptions{Limit: limit})
			require.Equal(t, sorted, got, "%s, pages of %d", when, limit)
		}
		var first []string
		for _, name := range sorted {
			if d := name[:strings.Index(name, "/")+1]; !slices.Contains(first, d) {
				first = append(first, d)
			}
		}
		for _, limit := range []int{1, 2, 0} {
			objects, prefixes := names(t, cluster, api.ListOptions{Delimiter: "/", Limit: limit})
			require.Empty(t, objects)
			require.Equal(t, first, prefixes, "%s, pages of %d", when, limit)
		}
	}
	check("at rest")
	remove := func(names ...string) {
		t.Helper()
		for _, name := range names {
			require.NoError(t, cluster.Client.DeleteObject(t.Context(), "m", name))
			delete(want, name)
		}
	}
	cluster.Targets[0].Stop()
	check("with a target down")
	var whole []string // a folder that is gone while a target does not hear of it
	for name := range want {
		if strings.HasPrefix(name, "dir-1/") {
			whole = append(whole, name)
		}
	}
	remove(whole...)
	remove("dir-0/key-003", "dir-2/key-005")
	put(t, cluster, "dir-9/late", []byte("late"))
	want["dir-9/late"] = true
	check("with a target away")
	cluster.Targets[0].Start()
	check("with the target back")
	cluster.AddTarget()
	check("after a join")
	remove("dir-9/late")
	check("after a deletion")
	cluster.Targets[1].Stop()
	cluster.Targets[2].Stop()
	_, err := cluster.Client.ListObjects(t.Context(), "m", api.ListOptions{})
	require.ErrorContains(t, err, "would not be complete")
}

// After a target has joined, what it is the primary of is still with others.
func TestAJoinLosesNothing(t *testing.T) {
	for _, copies := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d copies", copies), func(t *testing.T) {
			cluster := mirrored(t, 2, copies)
			for i, name := range keys(16) {
				put(t, cluster, name, content(name, 0, i%2*(3<<20)))
			}
			cluster.AddTarget()
			for i, name := range keys(16) {
				require.Equal(t, content(name, 0, i%2*(3<<20)), get(t, cluster, name))
				o, err := cluster.Client.StatObject(t.Context(), "m", name)
				require.NoError(t, err)
				_, err = cluster.Client.PutObject(t.Context(), "m", name, bytes.NewReader(nil), 0, api.PutOptions{IfNoneMatch: "*"})
				require.ErrorContains(t, err, api.CodePrecondition)
				_, err = cluster.Client.PutObject(t.Context(), "m", name, strings.NewReader("2"), 1, api.PutOptions{IfMatch: o.ETag})
				require.NoError(t, err)
				require.Equal(t, "2", string(get(t, cluster, name)))
			}
			for _, name := range keys(8) {
				require.NoError(t, cluster.Client.DeleteObject(t.Context(), "m", name))
				_, err := cluster.Client.StatObject(t.Context(), "m", name)
				require.ErrorContains(t, err, api.CodeNotFound)
			}
			objects, _ := names(t, cluster, api.ListOptions{})
			require.Len(t, objects, 8)
		})
	}
}

// Of writers that each want to be first, one is told that it was, even while another target takes over.
func TestConditionsHoldWhileATargetGoes(t *testing.T) {
	cluster := mirrored(t, 3, 2)
	var stopped sync.WaitGroup
	stopped.Go(func() { cluster.Targets[0].Stop() })
	var mu sync.Mutex
	first := map[string][]string{}
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			client := cluster.NewClient(api.Options{RetryFor: -1})
			for _, name := range keys(12) {
				mine := fmt.Sprintf("%s by %d", name, w)
				var answer *api.Error
				for {
					_, err := client.PutObject(t.Context(), "m", name, strings.NewReader(mine), int64(len(mine)), api.PutOptions{IfNoneMatch: "*"})
					if err == nil {
						mu.Lock()
						first[name] = append(first[name], mine)
						mu.Unlock()
						break
					}
					if !errors.As(err, &answer) || answer.Code != api.CodeUnavailable {
						break
					}
				}
			}
		})
	}
	writers.Wait()
	stopped.Wait()
	for _, name := range keys(12) {
		require.LessOrEqual(t, len(first[name]), 1, name)
		got := string(get(t, cluster, name))
		if len(first[name]) == 1 {
			require.Equal(t, first[name][0], got)
		}
	}
}

// More copies, and fewer again: what is there is found all along.
func TestABucketIsChanged(t *testing.T) {
	cluster := mirrored(t, 3, 1)
	for _, name := range keys(12) {
		put(t, cluster, name, []byte(name))
	}
	two, one := 2, 1
	b, err := cluster.Client.ChangeBucket(t.Context(), "m", api.BucketChange{Mirror: &two})
	require.NoError(t, err)
	require.Equal(t, 2, b.Mirror)
	for _, name := range keys(12) {
		require.Equal(t, name, string(get(t, cluster, name)))
	}
	cluster.Await("the bucket can be changed again", func() bool {
		_, err = cluster.Client.ChangeBucket(t.Context(), "m", api.BucketChange{Mirror: &one})
		return err == nil
	})
	for _, name := range keys(12) {
		require.Equal(t, name, string(get(t, cluster, name)))
	}
	objects, _ := names(t, cluster, api.ListOptions{})
	require.Len(t, objects, 12)
	for _, bad := range []api.BucketChange{{EC: &api.EC{Data: 1}}, {EC: &api.EC{Data: 30, Parity: 3}}, {Mirror: &two, EC: &api.EC{Data: 2, Parity: 2}}} {
		_, err = cluster.Client.ChangeBucket(t.Context(), "m", bad)
		require.ErrorContains(t, err, api.CodeBadRequest)
	}
}
