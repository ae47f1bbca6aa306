package gateway_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/backendtest"
)

// withBackend is a cluster whose s3:// backends are one in memory.
func withBackend(t *testing.T, targets int) (*clustertest.Cluster, *backendtest.Memory) {
	t.Helper()
	memory := backendtest.NewMemory("s3://memory")
	cluster := clustertest.Start(t, clustertest.Options{
		Targets: targets, Disks: 1, Schemes: backend.Set{
			backend.S3: memory.Opener(), backend.HTTPS: memory.Opener(), backend.Remote: memory.Opener(),
		},
	})
	return cluster, memory
}

func cacheBucket(t *testing.T, c *clustertest.Cluster, name string, b api.Backend) {
	t.Helper()
	b.URL = "s3://memory"
	_, err := c.Client.CreateBucketWith(t.Context(), name, api.BucketChange{Backend: &b})
	require.NoError(t, err)
}

func read(t *testing.T, c *clustertest.Cluster, bucket, key string) string {
	t.Helper()
	object, err := c.Client.GetObject(t.Context(), bucket, key, api.GetOptions{})
	require.NoError(t, err, key)
	data, err := io.ReadAll(object)
	require.NoError(t, errors.Join(err, object.Close()), key)
	return string(data)
}

func failsWith(t *testing.T, code string, err error, says ...string) {
	t.Helper()
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, code, answer.Code, answer.Message)
	for _, part := range says {
		assert.Contains(t, answer.Message, part)
	}
}

// names lists a bucket, cached names with a *.
func names(t *testing.T, c *clustertest.Cluster, bucket string, o api.ListOptions) (list []string) {
	t.Helper()
	for object, err := range c.Client.Objects(t.Context(), bucket, o) {
		require.NoError(t, err)
		require.NotNil(t, object.Cached)
		list = append(list, object.Name+map[bool]string{true: "*"}[*object.Cached])
	}
	return list
}

func TestBackendsAreListedWithWhatIsCached(t *testing.T) {
	cluster, memory := withBackend(t, 2)
	for i := range 30 {
		memory.Set(fmt.Sprintf("a/%02d", i), []byte("a"))
	}
	for _, name := range []string{"a-before", "b/x", "c", "not//a/name", "../nor/this"} {
		memory.Set(name, []byte(name))
	}
	cacheBucket(t, cluster, "b", api.Backend{Write: api.WriteCacheOnly, Delete: api.DeleteCached, Check: api.CheckAlways})
	assert.Equal(t, "a", read(t, cluster, "b", "a/07"))
	assert.Equal(t, "c", read(t, cluster, "b", "c"))
	put(t, cluster, "b", "own", "own")
	put(t, cluster, "b", "b/x", "another")

	all := names(t, cluster, "b", api.ListOptions{})
	assert.Len(t, all, 34)
	assert.True(t, slices.IsSorted(all), "%v", all)
	assert.Equal(t, []string{"a/06", "a/07*", "a/08"}, all[7:10])
	assert.Equal(t, []string{"b/x*", "c*", "own*"}, all[31:])
	for _, limit := range []int{1, 2, 7, 33, 34, 35} {
		assert.Equal(t, all, names(t, cluster, "b", api.ListOptions{Limit: limit}), "pages of %d", limit)
	}
	assert.Equal(t, all[2:], names(t, cluster, "b", api.ListOptions{StartAfter: "a/00"}))
	assert.Equal(t, all[1:11], names(t, cluster, "b", api.ListOptions{Prefix: "a/0"}))
	assert.Equal(t, []string{"a/07*", "b/x*", "c*", "own*"}, names(t, cluster, "b", api.ListOptions{Cached: true, Limit: 2}))

	for _, limit := range []int{1, 2, 5} {
		var prefixes, objects []string
		for o := (api.ListOptions{Delimiter: "/", Limit: limit}); ; {
			page, err := cluster.Client.ListObjects(t.Context(), "b", o)
			require.NoError(t, err)
			prefixes = append(prefixes, page.Prefixes...)
			for _, object := range page.Objects {
				objects = append(objects, object.Name)
			}
			if o.StartAfter = page.Next; page.Next == "" {
				break
			}
		}
		assert.Equal(t, []string{"a/", "b/"}, prefixes, "pages of %d", limit)
		assert.Equal(t, []string{"a-before", "c", "own"}, objects, "pages of %d", limit)
	}

	// What changes at the backend is not cached any more, what is gone there is not listed, what was deleted here is back.
	memory.Set("c", []byte("changed"))
	memory.Remove("a/07")
	require.NoError(t, cluster.Client.DeleteObject(t.Context(), "b", "b/x"))
	all = names(t, cluster, "b", api.ListOptions{StartAfter: "a/28"})
	assert.Equal(t, []string{"a/29", "b/x", "c", "own*"}, all)
	assert.NotContains(t, names(t, cluster, "b", api.ListOptions{Prefix: "a/07"}), "a/07*")
	page, err := cluster.Client.ListObjects(t.Context(), "b", api.ListOptions{Prefix: "c"})
	require.NoError(t, err)
	assert.Equal(t, int64(len("changed")), page.Objects[0].Size)
	assert.Equal(t, "changed", read(t, cluster, "b", "c"))
}

// What is summed up is passed over, not listed, where it is much.
func TestPrefixesOfABackend(t *testing.T) {
	cluster, memory := withBackend(t, 2)
	for i := range 6000 {
		memory.Set(fmt.Sprintf("big/%04d", i), []byte("x"))
	}
	memory.Set("big-not", nil)
	memory.Set("bigger/x", nil)
	memory.Set("last", nil)
	cacheBucket(t, cluster, "b", api.Backend{})
	before := memory.Calls("list", "")
	page, err := cluster.Client.ListObjects(t.Context(), "b", api.ListOptions{Delimiter: "/"})
	require.NoError(t, err)
	assert.Equal(t, []string{"big/", "bigger/"}, page.Prefixes)
	require.Len(t, page.Objects, 2)
	assert.Equal(t, 2, memory.Calls("list", "")-before, "once more behind big/")
	page, err = cluster.Client.ListObjects(t.Context(), "b", api.ListOptions{Delimiter: "/", StartAfter: "big/", Limit: 1})
	require.NoError(t, err)
	assert.Equal(t, []string{"bigger/"}, page.Prefixes)
	assert.Equal(t, "bigger/", page.Next)
	assert.Len(t, names(t, cluster, "b", api.ListOptions{Prefix: "big/", Limit: 4000}), 6000)
}

func TestAListingIsWholeOrAnError(t *testing.T) {
	cluster, memory := withBackend(t, 1)
	memory.Set("x", []byte("x"))
	cacheBucket(t, cluster, "b", api.Backend{Write: api.WriteCacheOnly})
	put(t, cluster, "b", "own", "own")
	for kind, code := range map[backend.Kind]string{backend.Denied: api.CodeDenied, backend.Failed: api.CodeBackend, backend.NotFound: api.CodeBackend} {
		memory.Fault = func(op, _ string, _ int64) error {
			if op == "list" {
				return memory.Failure(op, "", kind)
			}
			return nil
		}
		_, err := cluster.Client.ListObjects(t.Context(), "b", api.ListOptions{})
		failsWith(t, code, err, "s3://memory", "bucket b")
		assert.Equal(t, []string{"own*"}, names(t, cluster, "b", api.ListOptions{Cached: true}), "what is here is told without the backend")
	}
}

func TestWhatABackendsPropertiesMayBe(t *testing.T) {
	cluster, memory := withBackend(t, 1)
	create := func(change api.BucketChange) (api.Bucket, error) {
		return cluster.Client.CreateBucketWith(t.Context(), "b", change)
	}
	two := 2
	for name, c := range map[string]struct {
		change api.BucketChange
		says   string
	}{
		"copies":         {api.BucketChange{Mirror: &two, Backend: &api.Backend{URL: "s3://memory"}}, "durable copy"},
		"slices":         {api.BucketChange{EC: &api.EC{Data: 2, Parity: 1}, Backend: &api.Backend{URL: "s3://memory"}}, "durable copy"},
		"no URL":         {api.BucketChange{Backend: &api.Backend{URL: "memory"}}, "begins with one of"},
		"password":       {api.BucketChange{Backend: &api.Backend{URL: "https://me:hunter2@example.org/"}}, "secret"},
		"not built":      {api.BucketChange{Backend: &api.Backend{URL: "gs://memory"}}, "gs"},
		"policy":         {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Write: "sometimes"}}, "write"},
		"ttl of never":   {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Check: api.CheckNever, TTLS: 5}}, "ttl_s"},
		"ttl below 0":    {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", TTLS: -1}}, "ttl_s"},
		"quota":          {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Quota: -1}}, "quota"},
		"no quota":       {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Quota: math.MaxInt64}}, "quota"},
		"pattern":        {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Pinned: []string{"{a"}}}, "not closed"},
		"web is written": {api.BucketChange{Backend: &api.Backend{URL: "https://example.org/x", Write: api.WriteThrough}}, "takes no objects"},
		"deletes there":  {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Delete: api.DeleteThrough}}, "write-through"},
		"certificates":   {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", CA: "no"}}, "PEM"},
		"endpoint":       {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Endpoint: "http://a:b@c"}}, "secret"},
		"link-local":     {api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Endpoint: "http://169.254.169.254/"}}, "169.254.169.254"},
	} {
		_, err := create(c.change)
		failsWith(t, api.CodeBadRequest, err, c.says)
		assert.NotContains(t, err.Error(), "hunter2", name)
	}
	_, err := create(api.BucketChange{Backend: &api.Backend{URL: "ss://" + cluster.Gateways[0].Addr() + "/b"}})
	failsWith(t, api.CodeBadRequest, err, "this very cluster")
	_, port, err := net.SplitHostPort(cluster.Gateways[0].Addr())
	require.NoError(t, err)
	_, err = create(api.BucketChange{Backend: &api.Backend{URL: "ss://localhost:" + port + "/b"}})
	failsWith(t, api.CodeBadRequest, err, "this very cluster")
	_, err = create(api.BucketChange{Backend: &api.Backend{URL: "s3://memory", Secret: "none"}})
	failsWith(t, api.CodeNoSecret, err, "secret set none")

	memory.Fault = func(op, name string, _ int64) error { return memory.Failure(op, name, backend.Denied) }
	_, err = create(api.BucketChange{Backend: &api.Backend{URL: "s3://memory"}})
	failsWith(t, api.CodeDenied, err, "s3://memory", "not made", "--no-check")
	b, err := cluster.Client.CreateBucketUntried(t.Context(), "b", api.BucketChange{Backend: &api.Backend{URL: "s3://memory"}})
	require.NoError(t, err)
	assert.Equal(t, api.Backend{
		URL: "s3://memory", Check: api.CheckTTL, TTLS: 60, Write: api.WriteReadOnly, Delete: api.DeleteRefused,
	}, *b.Backend, "defaults")

	change := func(to api.Backend) (api.Bucket, error) {
		return cluster.Client.ChangeBucket(t.Context(), "b", api.BucketChange{Backend: &to})
	}
	_, err = change(api.Backend{URL: "s3://other"})
	failsWith(t, api.CodeBadRequest, err, "can't be exchanged")
	_, err = cluster.Client.ChangeBucket(t.Context(), "b", api.BucketChange{Mirror: &two})
	failsWith(t, api.CodeBadRequest, err, "durable copy")
	b, err = change(api.Backend{Quota: 1 << 30, Check: api.CheckAlways, Pinned: []string{"val-*.tar"}})
	require.NoError(t, err)
	assert.Equal(t, "s3://memory", b.Backend.URL)
	assert.Equal(t, int64(1<<30), b.Backend.Quota)
	assert.Zero(t, b.Backend.TTLS)
	createBucket(t, cluster, "plain")
	_, err = cluster.Client.ChangeBucket(t.Context(), "plain", api.BucketChange{Backend: &api.Backend{URL: "s3://memory"}})
	failsWith(t, api.CodeBadRequest, err, "has no backend")
	_, err = cluster.Client.Cached(t.Context(), "plain")
	failsWith(t, api.CodeBadRequest, err, "has no backend")
}

func TestABucketsEndIsNotItsBackends(t *testing.T) {
	cluster, memory := withBackend(t, 2)
	memory.Set("x", []byte("x"))
	cacheBucket(t, cluster, "b", api.Backend{Write: api.WriteCacheOnly})
	read(t, cluster, "b", "x")
	put(t, cluster, "b", "own", "own")
	failsWith(t, api.CodeNotEmpty, cluster.Client.DeleteBucket(t.Context(), "b", false))
	require.NoError(t, cluster.Client.DeleteBucket(t.Context(), "b", true))
	cacheBucket(t, cluster, "b", api.Backend{})
	assert.Equal(t, []string{"x"}, names(t, cluster, "b", api.ListOptions{}))
	assert.Equal(t, "x", read(t, cluster, "b", "x"))
	require.NoError(t, cluster.Client.DeleteBucket(t.Context(), "b", false), "what is cached is nothing that is lost")
	assert.NotNil(t, memory.Data("x"))
}
