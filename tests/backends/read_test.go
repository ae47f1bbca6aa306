package backends

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

func TestReads(t *testing.T) {
	s := newStage(t)
	s.each(t, kinds, func(t *testing.T, kind string) {
		t.Run("whole", func(t *testing.T) { testWhole(t, s, kind) })
		t.Run("ranges", func(t *testing.T) { testRanges(t, s, kind) })
		t.Run("members", func(t *testing.T) { testMembers(t, s, kind) })
		t.Run("head", func(t *testing.T) { testHead(t, s, kind) })
		t.Run("names", func(t *testing.T) { testNames(t, s, kind) })
		t.Run("one fetch", func(t *testing.T) { testOneFetch(t, s, kind) })
		t.Run("absent", func(t *testing.T) { testAbsent(t, s, kind) })
	})
}

// testWhole reads an object when it is cold, when it is warm, and once it was evicted.
func testWhole(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, func(b *api.Backend) { b.Check = api.CheckNever })
	objects := map[string][]byte{
		"set/large.bin": bytesOf(1, 9<<20+13), "set/small.bin": bytesOf(2, 100), "set/empty.bin": {},
	}
	c.PutAll(objects)
	for name, data := range objects {
		require.False(t, c.isCached(t, name))
		c.requireGet(t, name, data)
		c.awaitCached(t, name, true)
		c.requireGet(t, name, data)
		if n := c.reads(name); n >= 0 {
			require.LessOrEqual(t, n, 1, "a warm object was asked for")
		}
	}
	job := c.evict(t, "set/")
	require.Equal(t, api.JobDone, job.State)
	c.Server.Heal()
	for name, data := range objects {
		c.awaitCached(t, name, false)
		c.requireGet(t, name, data)
		c.awaitCached(t, name, true)
	}
}

func testRanges(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, nil)
	data := bytesOf(3, 3<<20+7)
	c.Put("object.bin", data)
	for _, r := range []struct{ offset, length int64 }{{0, 1}, {1 << 20, 4097}, {3 << 20, 7}, {3 << 20, 0}, {17, 2 << 20}, {3 << 20, 100}} {
		got, err := c.get("object.bin", api.GetOptions{Offset: r.offset, Length: r.length})
		require.NoError(t, err)
		end := int64(len(data))
		if r.length > 0 {
			end = min(end, r.offset+r.length)
		}
		requireBytes(t, data[r.offset:end], got)
	}
	_, err := c.get("object.bin", api.GetOptions{Offset: 4 << 20, Length: 10})
	requireAnswer(t, err, http.StatusRequestedRangeNotSatisfiable, api.CodeRange)
	c.requireGet(t, "object.bin", data)
}

func testMembers(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, nil)
	c.Put("shard.tar", tarOf(t, 40, 50_000))
	for _, i := range []int{39, 0, 17} { // the last one first: nothing before it has to come for that
		got, err := c.get("shard.tar", api.GetOptions{Member: fmt.Sprintf("%04d.bin", i)})
		require.NoError(t, err)
		requireBytes(t, bytesOf(uint64(i), 50_000), got)
		got, err = c.get("shard.tar", api.GetOptions{Member: fmt.Sprintf("%04d.txt", i)})
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("sample %d", i), string(got))
	}
	_, err := c.get("shard.tar", api.GetOptions{Member: "0040.bin"})
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, http.StatusNotFound, answer.Status)
}

// testHead describes an object without reading it.
func testHead(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, nil)
	c.Put("object.bin", bytesOf(4, 1<<20))
	var before int64
	if c.Server.HTTP == nil {
		before = c.Server.Data.Bytes()
	}
	described, err := c.client.StatObject(t.Context(), c.bucket, "object.bin")
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, described.Size)
	require.False(t, c.isCached(t, "object.bin"))
	switch {
	case c.Server.HTTP != nil:
		require.Zero(t, c.reads("object.bin"))
	default:
		require.Less(t, c.Server.Data.Bytes()-before, int64(1<<10), "a connection's end may still be on its way")
	}
}

// testNames reads objects whose names have to survive paths and queries.
func testNames(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, nil)
	names := []string{"with space", "plus+plus", "100%", "a&b=c", "hash#tag", "q?x", "ümlaut/日本語", "deep/er/and/deeper", "a~b,c@d"}
	for i, name := range names {
		c.Put(name, bytesOf(uint64(i), 1000+i))
	}
	for i, name := range names {
		c.requireGet(t, name, bytesOf(uint64(i), 1000+i))
	}
	listed := c.list(t, api.ListOptions{})
	require.Len(t, listed, len(names))
	for _, object := range listed {
		require.Contains(t, names, object.Name)
	}
}

// testOneFetch has many readers wait for one object.
func testOneFetch(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, nil)
	data := bytesOf(5, 8<<20)
	c.Put("object.bin", data)
	const readers = 64
	var all sync.WaitGroup
	errs, bodies := make([]error, readers), make([][]byte, readers)
	for i := range readers {
		all.Go(func() { bodies[i], errs[i] = c.get("object.bin", api.GetOptions{}) })
	}
	all.Wait()
	for i := range readers {
		require.NoError(t, errs[i])
		requireBytes(t, data, bodies[i])
	}
	if kind == backend.HDFS {
		require.Less(t, c.Server.Data.Bytes(), int64(len(data))*3/2)
		return
	}
	require.Equal(t, 1, c.reads("object.bin"))
}

func testAbsent(t *testing.T, s *stage, kind string) {
	c := s.cold(t, kind, nil)
	_, err := c.get("no such object", api.GetOptions{})
	requireAnswer(t, err, http.StatusNotFound, api.CodeNotFound)
	_, err = c.client.StatObject(t.Context(), c.bucket, "no such object")
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, http.StatusNotFound, answer.Status)
	require.Empty(t, c.list(t, api.ListOptions{}))
}

// TestListings lists 3,000 objects of which some are cached.
func TestListings(t *testing.T) {
	s := newStage(t)
	s.each(t, kinds, func(t *testing.T, kind string) {
		c := s.cold(t, kind, nil)
		objects, names := map[string][]byte{}, []string{}
		for i := range 3000 {
			name := fmt.Sprintf("part-%d/%05d.bin", i%3, i)
			names = append(names, name)
			objects[name] = fmt.Appendf(nil, "object %d", i)
		}
		slices.Sort(names)
		c.PutAll(objects)
		warm := []string{names[0], names[1234], names[2999]}
		for _, name := range warm {
			c.requireGet(t, name, objects[name])
			c.awaitCached(t, name, true)
		}
		for _, limit := range []int{0, 700} {
			listed := c.list(t, api.ListOptions{Limit: limit})
			require.Len(t, listed, len(names))
			for i, object := range listed {
				require.Equal(t, names[i], object.Name)
				require.EqualValues(t, len(objects[object.Name]), object.Size)
				require.NotNil(t, object.Cached)
				require.Equal(t, slices.Contains(warm, object.Name), *object.Cached, object.Name)
			}
		}
		part := c.list(t, api.ListOptions{Prefix: "part-1/", Limit: 300})
		require.Len(t, part, 1000)
		require.True(t, !slices.ContainsFunc(part, func(o api.Object) bool { return !strings.HasPrefix(o.Name, "part-1/") }))
		folders, err := c.client.ListObjects(t.Context(), c.bucket, api.ListOptions{Delimiter: "/"})
		require.NoError(t, err)
		require.Equal(t, []string{"part-0/", "part-1/", "part-2/"}, folders.Prefixes)
		require.Empty(t, folders.Objects)
		require.Len(t, c.list(t, api.ListOptions{Cached: true}), len(warm))
	})
}
