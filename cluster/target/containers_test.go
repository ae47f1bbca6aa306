package target_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// TestSourceOfServers: what an ETL's server reads at the node, in whatever way it writes the path, and nothing else.
func TestSourceOfServers(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	_, err := c.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	put(t, c, "b", "dir/a b%.txt", []byte("hello"))
	put(t, c, "b", "train.tar", shard(t, "one", "two"))
	put(t, c, "b", "odd;member=x", []byte("no member"))
	_, err = c.Client.StoreETL(t.Context(), api.ETL{Name: "mine", Kind: "server", URL: "http://127.0.0.1:9"}) // where none is
	require.NoError(t, err)
	deploy(t, c, api.ETL{Name: "function", Source: "def transform(s):\n    return s\n"})
	node := "http://" + c.Targets[0].Addr() + "/v1/etl-objects/"
	for _, r := range []struct {
		name, method, path string
		status             int
		want               string
	}{
		{"as it is asked", "GET", "mine/b/dir/a%20b%25.txt", 200, "hello"},
		{"in one segment", "GET", "mine/b%2Fdir%2Fa%20b%25.txt", 200, "hello"},
		{"behind two slashes", "GET", "mine//b/dir/a%20b%25.txt", 200, "hello"},
		{"a member", "GET", "mine/b/train.tar;member=s/0001.txt", 200, "two"},
		{"a member, escaped", "GET", "mine/b%2Ftrain.tar%3Bmember%3Ds%2F0001.txt", 200, "two"},
		{"a key that looks like a member", "GET", "mine/b/odd;member=x", 200, "no member"},
		{"its own transformation is not applied", "GET", "mine/b/dir/a%20b%25.txt?etl=mine", 200, "hello"},
		{"no object", "GET", "mine/b/none", 404, "object not found"},
		{"no bucket", "GET", "mine/", 400, ""},
		{"no such ETL", "GET", "other/b/dir/a%20b%25.txt", 404, "no ETL of this node reads here"},
		{"an ETL that reads nothing", "GET", "function/b/dir/a%20b%25.txt", 404, "no ETL of this node reads here"},
		{"a write", "PUT", "mine/b/new", 405, ""},
		{"a delete", "DELETE", "mine/b/dir/a%20b%25.txt", 405, ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, r.method, node+r.path, nil)
			require.NoError(t, err)
			answer, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			require.NoError(t, err)
			require.Equal(t, r.status, answer.StatusCode, string(body))
			require.Contains(t, string(body), r.want)
		})
	}
	require.NoError(t, c.Client.DeleteETL(t.Context(), "mine"))
	answer, err := http.Get(node + "mine/b/dir/a%20b%25.txt")
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, 404, answer.StatusCode, "the ETL is gone")
}

// TestServerOfTheUserReadsItsNode: by redirect and proxy, through a server that does what those of AIStore's SDK do.
func TestServerOfTheUserReadsItsNode(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	_, err := c.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	put(t, c, "b", "dir/note.txt", []byte("hello"))
	put(t, c, "b", "train.tar", shard(t, "one", "two"))
	node := "http://" + c.Targets[0].Addr() + "/v1/etl-objects/"
	user := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			_, _ = io.WriteString(w, "pushed ")
			_, _ = io.Copy(w, r.Body)
			return
		}
		if r.URL.Path == "/health" {
			return
		}
		answer, err := http.Get(node + "pull" + r.URL.EscapedPath())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
		_, _ = io.WriteString(w, "pulled ")
		_, _ = io.Copy(w, answer.Body)
	}))
	defer user.Close()
	for _, transport := range []string{"hrev://", "hpull"} {
		t.Run(transport, func(t *testing.T) {
			deploy(t, c, api.ETL{Name: "pull", Kind: "server", URL: user.URL, Transport: transport})
			for path, want := range map[string]string{
				"dir/note.txt?etl=pull":                  "pulled hello",
				"train.tar?etl=pull&member=s%2F0001.txt": "pulled two",
				"dir/note.txt?etl=pull,pull":             "pushed pulled hello", // what lies nowhere is pushed
			} {
				status, _, body := get(t, c, "/v1/objects/b/"+path)
				require.Equal(t, 200, status, string(body))
				require.Equal(t, want, string(body))
			}
		})
	}
}
