package gateway_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// raw sends one request as it is written, past all cleaning of clients, and returns the answer.
func raw(t testing.TB, addr, method, target string, header ...string) (*http.Response, []byte) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n", method, target, addr,
		strings.Join(append(header, ""), "\r\n"))
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, body
}

func codeOf(t testing.TB, body []byte) string {
	t.Helper()
	var document api.ErrorBody
	require.NoError(t, json.Unmarshal(body, &document), "%q", body)
	require.NotNil(t, document.Error, "%q", body)
	assert.NotEmpty(t, document.Error.Message)
	return document.Error.Code
}

func put(t testing.TB, c *clustertest.Cluster, bucket, key, data string) api.Object {
	t.Helper()
	object, err := c.Client.PutObject(t.Context(), bucket, key, strings.NewReader(data), int64(len(data)), api.PutOptions{})
	require.NoError(t, err)
	return object
}

func createBucket(t testing.TB, c *clustertest.Cluster, name string) {
	t.Helper()
	_, err := c.Client.CreateBucket(t.Context(), name)
	require.NoError(t, err)
}

func TestBadInput(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	createBucket(t, cluster, "b")
	put(t, cluster, "b", "there", "content")
	long := strings.Repeat("n", 2000)
	for _, c := range []struct {
		name, method, target string
		status               int
		code                 string
	}{
		{"dot dot", "PUT", "/v1/objects/b/../secret", 400, api.CodeBadName},
		{"dot dot escaped", "GET", "/v1/objects/b/%2e%2e/secret", 400, api.CodeBadName},
		{"dot dot with escaped slash", "GET", "/v1/objects/b/a%2f..%2fb", 400, api.CodeBadName},
		{"dot dot as bucket", "GET", "/v1/objects/../b", 400, api.CodeBadName},
		{"dot", "GET", "/v1/objects/b/./x", 400, api.CodeBadName},
		{"absolute", "GET", "/v1/objects/b//etc/passwd", 400, api.CodeBadName},
		{"NUL", "GET", "/v1/objects/b/a%00b", 400, api.CodeBadName},
		{"control character", "PUT", "/v1/objects/b/a%0ab", 400, api.CodeBadName},
		{"not UTF-8", "GET", "/v1/objects/b/%ff", 400, api.CodeBadName},
		{"2,000 characters", "PUT", "/v1/objects/b/" + long, 400, api.CodeBadName},
		{"no key", "GET", "/v1/objects/b/", 400, api.CodeBadName},
		{"bucket with capitals", "PUT", "/v1/buckets/Bucket", 400, api.CodeBadName},
		{"bucket of 2,000 characters", "PUT", "/v1/buckets/" + long, 400, api.CodeBadName},
		{"unknown bucket, object", "GET", "/v1/objects/nobucket/x", 404, api.CodeNoBucket},
		{"unknown bucket, put", "PUT", "/v1/objects/nobucket/x", 404, api.CodeNoBucket},
		{"unknown bucket, listing", "GET", "/v1/buckets/nobucket/objects", 404, api.CodeNoBucket},
		{"unknown bucket", "GET", "/v1/buckets/nobucket", 404, api.CodeNoBucket},
		{"unknown bucket, delete", "DELETE", "/v1/buckets/nobucket", 404, api.CodeNoBucket},
		{"bucket twice", "PUT", "/v1/buckets/b", 409, api.CodeExists},
		{"bucket not empty", "DELETE", "/v1/buckets/b", 409, api.CodeNotEmpty},
		{"force is no boolean", "DELETE", "/v1/buckets/b?force=maybe", 400, api.CodeBadRequest},
		{"limit 0", "GET", "/v1/buckets/b/objects?limit=0", 400, api.CodeBadRequest},
		{"limit is no number", "GET", "/v1/buckets/b/objects?limit=all", 400, api.CodeBadRequest},
		{"prefix too long", "GET", "/v1/buckets/b/objects?prefix=" + long, 400, api.CodeBadName},
		{"unknown op", "GET", "/v1/objects/b/there?op=chmod", 400, api.CodeBadRequest},
		{"dot dot as bucket to create", "PUT", "/v1/buckets/..", 400, api.CodeBadName},
		{"dot dot beyond buckets", "DELETE", "/v1/buckets/x/../b?force=true", 400, api.CodeBadName},
		{"empty bucket, listing", "GET", "/v1/buckets//objects", 400, api.CodeBadName},
		{"dot dot as etl", "GET", "/v1/etls/..", 400, api.CodeBadName},
		{"unknown node", "GET", "/v1/cluster/nodes/nobody", 404, api.CodeNotFound},
		{"unknown route", "GET", "/v1/nothing", 404, api.CodeNotFound},
		{"wrong method", "POST", "/v1/cluster", 405, api.CodeMethod},
		{"wrong method on an object", "PATCH", "/v1/objects/b/there", 405, api.CodeMethod},
		{"method of nobody", "BREW", "/v1/buckets", 405, api.CodeMethod},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, body := raw(t, cluster.Gateways[0].Addr(), c.method, c.target)
			assert.Equal(t, c.status, response.StatusCode, "%s", body)
			assert.Equal(t, c.code, codeOf(t, body))
			assert.NotEmpty(t, response.Header.Get(api.HeaderRequestID))
		})
	}
	// Nothing half-done is left.
	page, err := cluster.Client.ListObjects(t.Context(), "b", api.ListOptions{})
	require.NoError(t, err)
	assert.Len(t, page.Objects, 1)
	report, err := cluster.Client.Fsck(t.Context())
	require.NoError(t, err)
	assert.Equal(t, api.FsckReport{Objects: 1, Corrupt: []api.Finding{}, Missing: []api.Finding{}, Stray: []api.Finding{}}, report)
}

func TestBadStreams(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	createBucket(t, cluster, "b")
	put(t, cluster, "b", "x.bin", "no archive")
	for _, c := range []struct {
		name, body string
		status     int
		code, text string
	}{
		{"nothing", ``, 400, api.CodeBadRequest, "JSON"},
		{"no source", `{"shuffle":"global","batch_size":4}`, 400, api.CodeBadRequest, "source"},
		{"no address", `{"shuffle":"global","batch_size":4,"sources":["http://x/y"]}`, 400, api.CodeBadRequest, "ss://"},
		{"unknown shuffle", `{"shuffle":"sideways","batch_size":4,"sources":["ss://b/*.tar"]}`, 400, api.CodeBadRequest, "sideways"},
		{"batch of 0", `{"shuffle":"global","batch_size":0,"sources":["ss://b/*.tar"]}`, 400, api.CodeBadRequest, "batch size 0"},
		{"world of 0", `{"shuffle":"global","batch_size":4,"world_size":0,"sources":["ss://b/*.tar"]}`, 400, api.CodeBadRequest, "world size 0"},
		{"rank beyond the world", `{"shuffle":"global","batch_size":4,"world_size":2,"rank":2,"sources":["ss://b/*.tar"]}`, 400, api.CodeBadRequest, "rank 2"},
		{"unknown etl", `{"shuffle":"global","batch_size":4,"etl":"nope","sources":["ss://b/*.tar"]}`, 404, api.CodeNoETL, "nope"},
		{"no match", `{"shuffle":"global","batch_size":4,"sources":["ss://b/*.tar"]}`, 404, api.CodeNoMatch, "matches no object"},
		{"unknown bucket", `{"shuffle":"global","batch_size":4,"sources":["ss://nobucket/"]}`, 404, api.CodeNoBucket, "nobucket"},
		{"no archive", `{"shuffle":"global","batch_size":4,"sources":["ss://b/x.bin"]}`, 400, api.CodeBadRequest, "not an indexed tar"},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, err := http.Post(cluster.Endpoint()+"/v1/streams", "application/json", strings.NewReader(c.body))
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			assert.Equal(t, c.status, response.StatusCode, "%s", body)
			assert.Equal(t, c.code, codeOf(t, body))
			assert.Contains(t, string(body), c.text)
		})
	}
}

func TestBadDocuments(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	for _, c := range []struct {
		name, method, path, body string
		text                     string
	}{
		{"misspelt member of an etl", "PUT", "/v1/etls/x?wait=false", `{"source":"def transform(s): return s","requirments":["a"]}`, `unknown field \"requirments\"`},
		{"number for a string", "PUT", "/v1/etls/x?wait=false", `{"source":5}`, "source can't be a JSON number"},
		{"array", "PUT", "/v1/etls/x?wait=false", `[]`, "it can't be a JSON array"},
		{"more than a document", "PUT", "/v1/etls/x?wait=false", `{"source":"def transform(s): return s"} {}`, "after top-level value"},
		{"misspelt member of a trial", "POST", "/v1/etls/x/test", `{"adress":"ss://b/k"}`, `unknown field \"adress\"`},
		{"misspelt member of a job", "POST", "/v1/jobs", `{"kind":"transform","transform":{"ettl":"x"}}`, `unknown field \"ettl\"`},
		{"nested number", "POST", "/v1/jobs", `{"kind":"transform","transform":{"etl":5}}`, "transform.etl can't be a JSON number"},
	} {
		t.Run(c.name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), c.method, cluster.Endpoint()+c.path, strings.NewReader(c.body))
			require.NoError(t, err)
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			assert.Equal(t, http.StatusBadRequest, response.StatusCode, "%s", body)
			assert.Equal(t, api.CodeBadRequest, codeOf(t, body))
			assert.Contains(t, string(body), c.text)
		})
	}
}

func TestBadExplanations(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	createBucket(t, cluster, "b")
	for _, c := range []struct {
		name, body string
		status     int
		code       string
	}{
		{"nothing", ``, 400, api.CodeBadRequest},
		{"no source", `{"shuffle":"global"}`, 400, api.CodeBadRequest},
		{"no match", `{"shuffle":"global","sources":["ss://b/*.tar"]}`, 404, api.CodeNoMatch},
		{"a batch that is no number", `{"shuffle":"global","sources":["ss://b/*.tar"],"batch":"last"}`, 400, api.CodeBadRequest},
		{"another node's path", `{"shuffle":"global","sources":["ss://b/*.tar"],"snapshot":"../health"}`, 400, api.CodeBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			response, err := http.Post(cluster.Endpoint()+"/v1/streams/explain", "application/json", strings.NewReader(c.body))
			require.NoError(t, err)
			defer func() { _ = response.Body.Close() }()
			body, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			assert.Equal(t, c.status, response.StatusCode, "%s", body)
			assert.Equal(t, c.code, codeOf(t, body))
		})
	}
}

func TestHugeHeaderIsRefused(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	for _, addr := range []string{cluster.Gateways[0].Addr(), cluster.Targets[0].Addr()} {
		response, _ := raw(t, addr, "GET", "/v1/health", "X-Large: "+strings.Repeat("x", 48<<10))
		assert.Equal(t, http.StatusRequestHeaderFieldsTooLarge, response.StatusCode)
	}
}

func TestListingIsMergedSortedAndPaged(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{})
	createBucket(t, cluster, "b")
	var names []string
	for i := range 60 {
		for _, form := range []string{"top-%02d", "dir/%02d", "dir/deep/%02d", "dir-%02d/x"} {
			names = append(names, fmt.Sprintf(form, i))
		}
	}
	for _, name := range names {
		put(t, cluster, "b", name, name)
	}
	slices.Sort(names)
	for _, c := range []struct{ prefix, delimiter string }{
		{"", ""},
		{"dir", ""},
		{"dir/", ""},
		{"top-1", ""},
		{"none", ""},
		{"", "/"},
		{"dir/", "/"},
		{"dir", "/"},
		{"dir-0", "/"},
		{"", "-"},
		{"dir/deep/", "/"},
	} {
		want, wantPrefixes := expected(names, c.prefix, c.delimiter)
		for _, limit := range []int{1, 7, 1000} {
			if limit == 1 && len(want) > 20 {
				continue // slow, and says nothing more
			}
			objects, prefixes, order := pages(t, cluster, api.ListOptions{Prefix: c.prefix, Delimiter: c.delimiter, Limit: limit})
			assert.Equal(t, want, objects, "%+v by %d", c, limit)
			assert.Equal(t, wantPrefixes, prefixes, "%+v by %d", c, limit)
			assert.True(t, slices.IsSorted(order), "%+v by %d: %v", c, limit, order)
		}
	}
	for object, err := range cluster.Client.Objects(t.Context(), "b", api.ListOptions{Prefix: "top-", Limit: 9}) {
		require.NoError(t, err)
		assert.Equal(t, int64(6), object.Size)
	}
}

// expected is a listing by the book.
func expected(names []string, prefix, delimiter string) (objects, prefixes []string) {
	for _, name := range names {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if head, _, found := strings.Cut(rest, delimiter); delimiter != "" && found {
			prefixes = append(prefixes, prefix+head+delimiter)
			continue
		}
		objects = append(objects, name)
	}
	return objects, slices.Compact(prefixes)
}

// pages goes through a listing. order has the last entry of each page.
func pages(t testing.TB, c *clustertest.Cluster, o api.ListOptions) (objects, prefixes, order []string) {
	t.Helper()
	for {
		page, err := c.Client.ListObjects(t.Context(), "b", o)
		require.NoError(t, err)
		require.LessOrEqual(t, len(page.Objects)+len(page.Prefixes), o.Limit)
		for _, object := range page.Objects {
			objects = append(objects, object.Name)
		}
		prefixes = append(prefixes, page.Prefixes...)
		if page.Next == "" {
			return objects, prefixes, order
		}
		require.Greater(t, page.Next, o.StartAfter)
		order = append(order, page.Next)
		o.StartAfter = page.Next
	}
}

func TestWithATargetDownListingsFailAndOthersServe(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{})
	createBucket(t, cluster, "b")
	lost := cluster.Targets[1]
	var there, away string
	for i := range 100 {
		key := fmt.Sprintf("object-%d", i)
		if cluster.Owner("b", key) == lost {
			away = key
		} else {
			there = key
		}
	}
	put(t, cluster, "b", there, "there")
	put(t, cluster, "b", away, "away")
	lost.Stop()
	impatient := cluster.NewClient(api.Options{RetryFor: -1})
	cluster.Await("the cluster knows", func() bool {
		status, err := impatient.Status(t.Context())
		return err == nil && status.State == api.StateDegraded
	})

	_, err := impatient.ListObjects(t.Context(), "b", api.ListOptions{})
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, http.StatusServiceUnavailable, answer.Status)
	assert.Contains(t, answer.Message, lost.ID)

	response, body := raw(t, cluster.Gateways[0].Addr(), "GET", "/v1/objects/b/"+away)
	assert.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
	assert.Contains(t, string(body), lost.ID)

	_, err = impatient.StatObject(t.Context(), "b", there)
	require.NoError(t, err)
	_, err = impatient.Fsck(t.Context())
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, api.CodeUnavailable, answer.Code)

	err = impatient.DeleteBucket(t.Context(), "b", false)
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, api.CodeUnavailable, answer.Code)
	_, err = impatient.Bucket(t.Context(), "b")
	require.NoError(t, err, "a bucket that could not be deleted is there as before")

	lost.Start()
	_, err = cluster.Client.StatObject(t.Context(), "b", away)
	require.NoError(t, err)
	_, err = cluster.Client.ListObjects(t.Context(), "b", api.ListOptions{})
	require.NoError(t, err)
}

func TestRedirectComesBeforeTheBody(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1})
	createBucket(t, cluster, "b")
	response, _ := raw(t, cluster.Gateways[0].Addr(), "PUT", "/v1/objects/b/a%20b?x=1",
		"Expect: 100-continue", "Content-Length: 1000000000", "X-Request-Id: mine-1")
	assert.Equal(t, http.StatusTemporaryRedirect, response.StatusCode)
	assert.Equal(t, "http://"+cluster.Owner("b", "a b").Addr()+"/v1/objects/b/a%20b?x=1", response.Header.Get("Location"))
	assert.Equal(t, "mine-1", response.Header.Get(api.HeaderRequestID))
}

func TestCurlPutsAndGets(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skip("no curl here")
	}
	cluster := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1})
	createBucket(t, cluster, "b")
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	file := filepath.Join(t.TempDir(), "data")
	writeFile(t, file, data)
	for i, source := range []string{file, "-"} { // with a length, and chunked
		url := fmt.Sprintf("%s/v1/objects/b/curl %d.bin", cluster.Endpoint(), i)
		url = strings.ReplaceAll(url, " ", "%20")
		command := exec.Command(curl, "-sS", "-f", "-L", "-T", source, url)
		if source == "-" {
			// A pipe can't be sent again after a redirect: curl asks first and waits for the answer.
			command.Args = append(command.Args, "-H", "Expect: 100-continue", "--expect100-timeout", "10")
			command.Stdin = bytes.NewReader(data)
		}
		output, err := command.CombinedOutput()
		require.NoError(t, err, "%s", output)
		got, err := exec.Command(curl, "-sS", "-f", "-L", url).Output()
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, got))
	}
}

func TestRequestIDReachesTargets(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	response, _ := raw(t, cluster.Targets[0].Addr(), "GET", "/v1/health", "X-Request-Id: abc.1")
	assert.Equal(t, "abc.1", response.Header.Get(api.HeaderRequestID))
	response, _ = raw(t, cluster.Targets[0].Addr(), "GET", "/v1/health", "X-Request-Id: evil\tid")
	assert.NotEqual(t, "evil\tid", response.Header.Get(api.HeaderRequestID))
	assert.NotEmpty(t, response.Header.Get(api.HeaderRequestID))
}

func TestStatusHealthAndMetrics(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 2})
	cluster.Await("both targets have found that all is where it belongs", func() bool {
		rebalance, err := cluster.Client.Rebalance(t.Context())
		return err == nil && rebalance.State == api.RebalanceIdle
	})
	status, err := cluster.Client.Status(t.Context())
	require.NoError(t, err)
	assert.Equal(t, api.StateOK, status.State)
	assert.Equal(t, cluster.Endpoint(), status.Endpoint)
	assert.Equal(t, "idle", status.Rebalance.State)
	assert.NotEmpty(t, status.Cluster)
	require.Len(t, status.Nodes, 3)
	for _, n := range status.Nodes {
		assert.NotZero(t, n.PID)
		if n.Role == api.RoleTarget {
			require.Len(t, n.Disks, 2)
			assert.Equal(t, "disk-1", n.Disks[0].ID)
			assert.Positive(t, n.Disks[0].Capacity)
		}
		for path, want := range map[string]string{"/v1/health": `"state":"ok"`, "/metrics": "shardstream_http_requests_total"} {
			response, body := raw(t, n.Addr, "GET", path)
			assert.Equal(t, http.StatusOK, response.StatusCode)
			assert.Contains(t, string(body), want, "%s of %s", path, n.ID)
		}
	}
	node, err := cluster.Client.Node(t.Context(), "target-2")
	require.NoError(t, err)
	assert.Equal(t, cluster.Targets[1].Addr(), node.Addr)
}
