package target_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// shouting is a user's server that makes objects upper case, by every transport. It reads objects of the target at source.
func shouting(t testing.TB, source func(path string) string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := r.Body
		switch {
		case r.URL.Path == "/health":
			return
		case r.Method == http.MethodGet:
			answer, err := http.Get(source(r.URL.Path))
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			defer func() { _ = answer.Body.Close() }()
			if answer.StatusCode != http.StatusOK {
				http.Error(w, "the object: "+answer.Status, http.StatusBadGateway)
				return
			}
			body = answer.Body
		}
		data, err := io.ReadAll(body)
		if err != nil || bytes.Contains(data, []byte("bad")) {
			http.Error(w, "bad object", http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("X-Token", r.Header.Get("Authorization"))
		_, _ = fmt.Fprint(w, strings.ToUpper(string(data)), r.URL.Query().Get("etl_args"))
	}))
	t.Cleanup(server.Close)
	return server
}

func TestServersInline(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	_, err := c.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	put(t, c, "b", "dir/note.txt", []byte("hello"))
	put(t, c, "b", "bad.txt", []byte("bad"))
	put(t, c, "b", "large.bin", bytes.Repeat([]byte("abcdefgh"), 1<<20))
	put(t, c, "b", "train.tar", shard(t, "one", "two"))
	client := c.NewClient(api.Options{Token: "secret"})
	deploy(t, c, api.ETL{Name: "flip", Source: "def transform(data):\n    return data[::-1]\n", Level: api.LevelObject})
	for _, transport := range []string{"push", "redirect", "proxy"} {
		t.Run(transport, func(t *testing.T) {
			name := "by-" + transport
			server := shouting(t, func(path string) string {
				return "http://" + c.Targets[0].Addr() + "/v1/etl-objects/" + name + path
			})
			deploy(t, c, api.ETL{Name: name, Kind: "server", URL: server.URL, Transport: transport})
			base := "/v1/objects/b/dir/note.txt?etl=" + name
			status, header, body := get(t, c, base)
			require.Equal(t, http.StatusOK, status, string(body))
			require.Equal(t, "HELLO", string(body))
			require.Empty(t, header.Get("X-Token"))
			_, _, body = get(t, c, base+`&etl_args={"a":1}`)
			require.Equal(t, `HELLO{"a":1}`, string(body))
			_, _, body = get(t, c, base+",flip")
			require.Equal(t, "OLLEH", string(body))
			_, _, body = get(t, c, "/v1/objects/b/train.tar?member=s/0001.txt&etl="+name)
			require.Equal(t, "TWO", string(body))
			for _, want := range []string{"miss", "hit"} {
				_, header, body = get(t, c, base+"&cache=true")
				require.Equal(t, "HELLO", string(body))
				require.Equal(t, want, header.Get(api.HeaderCache))
			}
			reader, err := client.GetObject(t.Context(), "b", "dir/note.txt", api.GetOptions{ETL: []string{name}, Offset: 1, Length: 2})
			require.NoError(t, err)
			body, err = io.ReadAll(reader)
			require.NoError(t, err)
			require.Equal(t, "EL", string(body))
			_, _, body = get(t, c, "/v1/objects/b/large.bin?etl="+name)
			require.True(t, bytes.Equal(bytes.Repeat([]byte("ABCDEFGH"), 1<<20), body))
			refused(t, c, "/v1/objects/b/bad.txt?cache=true&etl="+name, 422, api.CodeETLFailed, "bad object")
			result, err := c.Client.TestETL(t.Context(), name, api.ETLTrial{Address: "ss://b/dir/note.txt", Data: true})
			require.NoError(t, err)
			require.Nil(t, result.Error)
			require.Equal(t, "HELLO", string(result.Data))
		})
	}
}
