package backends

import (
	"bytes"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/tests/backends/faultproxy"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

const object = "set/object.bin"

func namesObject(r *http.Request) bool {
	return serverstest.Names(r, object) || serverstest.Names(r, "object.bin")
}

func requireOneOf(t *testing.T, versions [][]byte, got []byte) {
	t.Helper()
	same := func(version []byte) bool { return bytes.Equal(version, got) }
	require.True(t, slices.ContainsFunc(versions, same), "%d bytes that are of no version", len(got))
}

// TestFaultsBelowACluster has servers fail below buckets of a cluster: the fault is overcome, or said; nothing partial is
// ever taken for whole.
func TestFaultsBelowACluster(t *testing.T) {
	s := newStage(t)
	data := bytesOf(1, 4<<20)
	s.each(t, append(slices.Clone(overHTTP), backend.Remote), func(t *testing.T, kind string) {
		for name, fault := range map[string]faultproxy.Rule{
			"busy":         {Times: 2, Match: isObject, Status: http.StatusTooManyRequests, RetryAfter: "0"},
			"unavailable":  {Times: 1, Match: isObject, Status: http.StatusServiceUnavailable, RetryAfter: "1"},
			"failing":      {Times: 2, Match: isObject, Status: http.StatusInternalServerError},
			"cut":          {Times: 2, Match: isObject, Cut: 1<<20 + 9},
			"ends early":   {Times: 1, Match: isObject, End: 3 << 20},
			"other bytes":  {Times: 1, Match: isObject, Flip: 3 << 20},
			"slow":         {Match: isObject, Rate: 16 << 20},
			"cut at once":  {Times: 2, Match: isObject, Cut: -1},
			"not found":    {Times: 1, Match: isObject, Status: http.StatusNotFound},
			"other answer": {Times: 1, Match: isObject, Status: http.StatusOK, Body: "<html>log in here</html>"},
		} {
			t.Run(name, func(t *testing.T) {
				c := s.cold(t, kind, nil)
				c.Put(object, data)
				fired := c.Server.HTTP.Add(fault)
				got, err := c.get(object, api.GetOptions{})
				require.Positive(t, fired(), "the fault did not happen")
				blind := kind == backend.HTTP && (name == "other bytes" || name == "other answer") // web servers tell neither sums nor who they are
				if err == nil && !blind {
					requireBytes(t, data, got)
				}
				if fault.Status != 0 && fault.Status >= 429 || fault.Cut != 0 || fault.Rate != 0 {
					require.NoError(t, err)
				}
				c.Server.Heal()
				if blind { // once it is out of the cache, the right one comes; the first read may only find that it is another
					c.evict(t, "")
					_, _ = c.get(object, api.GetOptions{})
				}
				c.requireGet(t, object, data)
			})
		}
	})
}

// TestFaultsBelowAClusterThatStay says what an error has to say.
func TestFaultsBelowAClusterThatStay(t *testing.T) {
	s := newStage(t)
	data := bytesOf(1, 1<<20)
	s.each(t, overHTTP, func(t *testing.T, kind string) {
		c := s.cold(t, kind, nil)
		c.Put(object, data)
		c.Server.HTTP.Add(faultproxy.Rule{Status: http.StatusForbidden})
		_, err := c.get(object, api.GetOptions{})
		requireAnswer(t, err, http.StatusBadGateway, api.CodeDenied)
		require.ErrorContains(t, err, c.Server.Kind+"://")
		_, err = c.client.ListObjects(t.Context(), c.bucket, api.ListOptions{})
		requireAnswer(t, err, http.StatusBadGateway, api.CodeDenied)
		require.ErrorContains(t, err, c.Server.Kind+"://")
		c.Server.Heal()
		c.requireGet(t, object, data)
		require.Len(t, c.list(t, api.ListOptions{}), 1)
	})
}

// TestStormOfBusy has one backend answer 429 to everything: the cluster lives, and its other buckets don't notice.
func TestStormOfBusy(t *testing.T) {
	s := newStage(t)
	stormy := s.cold(t, backend.S3, nil)
	calm := s.cold(t, backend.HTTP, nil)
	data := bytesOf(1, 1<<20)
	stormy.Put(object, data)
	fired := stormy.Server.HTTP.Add(faultproxy.Rule{Status: http.StatusTooManyRequests, RetryAfter: "1"})
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			if got, err := stormy.get(object, api.GetOptions{}); err == nil && !bytes.Equal(data, got) {
				t.Error("other bytes")
			}
		})
	}
	s.Await("the storm has begun", func() bool { return fired() > 0 })
	for i := range 50 {
		name := string(rune('a'+i%26)) + ".bin"
		calm.Put(name, bytesOf(uint64(i), 100_000))
		calm.evict(t, name)
		calm.requireGet(t, name, bytesOf(uint64(i), 100_000))
	}
	require.Less(t, fired(), 64*20, "nobody has slowed down")
	stormy.Server.HTTP.Clear()
	all.Wait()
	stormy.requireGet(t, object, data)
	for _, node := range append(slices.Clone(s.Targets), s.Gateways...) {
		answer, err := http.Get("http://" + node.Addr() + "/v1/health")
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, http.StatusOK, answer.StatusCode)
	}
}

// TestHDFSFaultsBelowACluster cuts and changes what HDFS sends.
func TestHDFSFaultsBelowACluster(t *testing.T) {
	s := newStage(t)
	data := bytesOf(1, 4<<20)
	for name, fault := range map[string]func(*serverstest.Server){
		"cut":                func(s *serverstest.Server) { s.Data.CutNext(1<<20, 2<<20) },
		"cut at once":        func(s *serverstest.Server) { s.Data.CutNext(0) },
		"other bytes":        func(s *serverstest.Server) { s.Data.Flip(3 << 20) },
		"name node cuts":     func(s *serverstest.Server) { s.TCP.CutAll(); s.TCP.CutNext(0) },
		"slow":               func(s *serverstest.Server) { s.Data.Rate(16 << 20) },
		"name node is away":  func(s *serverstest.Server) { s.TCP.CutAll(); s.TCP.CutNext(0, 0, 0) },
		"data node is slain": func(s *serverstest.Server) { s.Data.CutAll(); s.Data.CutNext(0, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			c := s.cold(t, backend.HDFS, nil)
			c.Put(object, data)
			fault(c.Server)
			c.requireGet(t, object, data)
		})
	}
}
