package target_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/etl"
)

const upper = `
def transform(sample):
    print("seen", sample["__key__"])
    if sample.get("txt") == b"bad":
        raise ValueError("bad text")
    return {"txt": sample["txt"].decode().upper(), "len": len(sample["txt"]), "ratio": 0.5, "ok": True}
`

// shard is a tar of samples s/0000.txt ... with the given texts.
func shard(t testing.TB, texts ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i, text := range texts {
		for _, m := range [][2]string{{"txt", text}, {"cls", "1"}} {
			name := "s/000" + string(rune('0'+i)) + "." + m[0]
			require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(m[1]))}))
			_, err := w.Write([]byte(m[1]))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// members are the members of a tar, in order.
func members(t testing.TB, data []byte) (names []string, contents map[string]string) {
	t.Helper()
	contents = map[string]string{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, contents
		}
		require.NoError(t, err)
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		names = append(names, h.Name)
		contents[h.Name] = string(content)
	}
}

func put(t testing.TB, c *clustertest.Cluster, bucket, key string, data []byte) {
	t.Helper()
	_, err := c.Client.PutObject(t.Context(), bucket, key, bytes.NewReader(data), int64(len(data)), api.PutOptions{})
	require.NoError(t, err)
}

func deploy(t testing.TB, c *clustertest.Cluster, e api.ETL) api.ETL {
	t.Helper()
	out, err := c.Client.PutETL(t.Context(), e)
	require.NoError(t, err)
	return out
}

// get fetches through the gateway, redirects followed.
func get(t testing.TB, c *clustertest.Cluster, path string) (int, http.Header, []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Endpoint()+path, nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, answer.Header, body
}

// refused checks the status, code and message of an error document.
func refused(t testing.TB, c *clustertest.Cluster, path string, status int, code string, says ...string) {
	t.Helper()
	got, _, body := get(t, c, path)
	require.Equal(t, status, got, string(body))
	require.Contains(t, string(body), `"code":"`+code+`"`)
	for _, want := range says {
		require.Contains(t, string(body), want)
	}
}

func codeOf(err error) string {
	var answer *api.Error
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

func TestTransformations(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1})
	_, err := c.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	put(t, c, "b", "train.tar", shard(t, "one", "two", "three"))
	put(t, c, "b", "broken.tar", shard(t, "one", "bad"))
	put(t, c, "b", "dir/note.txt", []byte("hello"))
	put(t, c, "b", "empty.tar", shard(t))

	t.Run("definitions", func(t *testing.T) {
		first := deploy(t, c, api.ETL{Name: "upper", Source: upper})
		require.Equal(t, "function", first.Kind)
		require.Equal(t, "transform", first.Entry)
		require.Equal(t, api.LevelSample, first.Level)
		require.InDelta(t, 30, first.TimeoutS, 0)
		second := deploy(t, c, api.ETL{Name: "upper", Source: upper})
		require.Greater(t, second.Version, first.Version)
		deploy(t, c, api.ETL{Name: "flip", Source: "def transform(data):\n    return data[::-1]\n", Level: api.LevelObject})
		list, err := c.Client.ETLs(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 2)
		require.Equal(t, "flip", list[0].Name)
		got, err := c.Client.ETL(t.Context(), "upper")
		require.NoError(t, err)
		require.Equal(t, api.ETLReady, got.Status.State)
		require.Len(t, got.Status.Targets, 2)
		got.Status = nil
		require.Equal(t, second, got)
	})
	t.Run("refused definitions", func(t *testing.T) {
		for name, x := range map[string]struct {
			e    api.ETL
			code string
			says string
		}{
			"name":        {api.ETL{Name: "Bad Name", Source: upper}, api.CodeBadName, "name"},
			"no source":   {api.ETL{Name: "x"}, api.CodeBadRequest, "source: is empty"},
			"large":       {api.ETL{Name: "x", Source: strings.Repeat("#", 1<<20+1)}, api.CodeBadRequest, "more than 1048576"},
			"level":       {api.ETL{Name: "x", Source: upper, Level: "shard"}, api.CodeBadRequest, `level: "shard"`},
			"kind":        {api.ETL{Name: "x", Source: upper, Kind: "wasm"}, api.CodeBadRequest, "kind"},
			"timeout":     {api.ETL{Name: "x", Source: upper, TimeoutS: 1e9}, api.CodeBadRequest, "timeout_s"},
			"syntax":      {api.ETL{Name: "x", Source: "def transform(:\n"}, api.CodeETLFailed, "SyntaxError"},
			"import":      {api.ETL{Name: "x", Source: "import no_such_module"}, api.CodeETLFailed, "line 1"},
			"entry":       {api.ETL{Name: "x", Source: upper, Entry: "other"}, api.CodeETLFailed, "it defines transform"},
			"requirement": {api.ETL{Name: "x", Source: upper, Requirements: []string{"no-such-thing"}}, api.CodeETLFailed, "no-such-thing"},
		} {
			_, err := c.Client.PutETL(t.Context(), x.e)
			require.Equal(t, x.code, codeOf(err), name)
			require.ErrorContains(t, err, x.says, name)
		}
		_, err := c.Client.ETL(t.Context(), "x")
		require.Equal(t, api.CodeNoETL, codeOf(err))
	})
	t.Run("samples of a tar", func(t *testing.T) {
		status, header, body := get(t, c, "/v1/objects/b/train.tar?etl=upper")
		require.Equal(t, http.StatusOK, status, string(body))
		require.Equal(t, "application/x-tar", header.Get("Content-Type"))
		require.True(t, strings.HasPrefix(header.Get("ETag"), `"etl-`))
		names, contents := members(t, body)
		require.Equal(t, []string{
			"s/0000.txt", "s/0000.len", "s/0000.ratio", "s/0000.ok",
			"s/0001.txt", "s/0001.len", "s/0001.ratio", "s/0001.ok",
			"s/0002.txt", "s/0002.len", "s/0002.ratio", "s/0002.ok",
		}, names)
		require.Equal(t, "THREE", contents["s/0002.txt"])
		require.Equal(t, "5", contents["s/0002.len"])
		require.Equal(t, "0.5", contents["s/0002.ratio"])
		require.Equal(t, "1", contents["s/0002.ok"])
		put(t, c, "b", "again.tar", body) // the answer is itself a good shard
	})
	t.Run("the sample of a member", func(t *testing.T) {
		_, _, body := get(t, c, "/v1/objects/b/train.tar?etl=upper&member=s/0001.cls")
		names, contents := members(t, body)
		require.Len(t, names, 4)
		require.Equal(t, "TWO", contents["s/0001.txt"])
		refused(t, c, "/v1/objects/b/train.tar?etl=upper&member=s/9.txt", 404, api.CodeNotFound)
		refused(t, c, "/v1/objects/b/train.tar?etl=upper&etl=upper", 400, api.CodeBadRequest, "more than once")
	})
	t.Run("an object as a sample", func(t *testing.T) {
		_, _, body := get(t, c, "/v1/objects/b/dir/note.txt?etl=upper")
		_, contents := members(t, body)
		require.Equal(t, "HELLO", contents["dir/note.txt"])
	})
	t.Run("an empty tar", func(t *testing.T) {
		status, _, body := get(t, c, "/v1/objects/b/empty.tar?etl=upper")
		require.Equal(t, http.StatusOK, status)
		names, _ := members(t, body)
		require.Empty(t, names)
	})
	t.Run("objects", func(t *testing.T) {
		status, _, body := get(t, c, "/v1/objects/b/dir/note.txt?etl=flip")
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "olleh", string(body))
		_, _, body = get(t, c, "/v1/objects/b/train.tar?etl=flip&member=s/0002.txt")
		require.Equal(t, "eerht", string(body))
		_, _, body = get(t, c, "/v1/objects/b/dir/note.txt?etl=flip,flip")
		require.Equal(t, "hello", string(body))
	})
	t.Run("through the client", func(t *testing.T) {
		r, err := c.Client.GetObject(t.Context(), "b", "dir/note.txt", api.GetOptions{ETL: []string{"flip"}})
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.Equal(t, "olleh", string(data))
	})
	t.Run("batches, arguments and objects in pieces", func(t *testing.T) {
		deploy(t, c, api.ETL{Name: "batch", Level: api.LevelBatch, Args: []byte(`{"sign": "!"}`), Source: `
def transform(samples, sign):
    return {"txt": [s["txt"].decode() + sign for s in samples], "n": [len(s["txt"]) for s in samples]}
`})
		_, _, body := get(t, c, "/v1/objects/b/train.tar?etl=batch")
		_, contents := members(t, body)
		require.Equal(t, "three!", contents["s/0002.txt"])
		require.Equal(t, "5", contents["s/0002.n"])
		_, _, body = get(t, c, `/v1/objects/b/train.tar?etl=batch&etl_args={"sign":"%3F"}`)
		_, contents = members(t, body)
		require.Equal(t, "three?", contents["s/0002.txt"])
		deploy(t, c, api.ETL{Name: "pieces", Level: api.LevelObject, Source: `
def transform(data, n=3, fail=-1):
    for i in range(n):
        if i == fail:
            raise ValueError("at piece %d" % i)
        yield b"x" * 100000
`})
		status, header, body := get(t, c, `/v1/objects/b/dir/note.txt?etl=pieces&etl_args={"n":100}`)
		require.Equal(t, http.StatusOK, status, string(body[:min(len(body), 1000)]))
		require.Len(t, body, 100*100_000)
		require.Empty(t, header.Get("Content-Length"))
		refused(t, c, `/v1/objects/b/dir/note.txt?etl=pieces&etl_args={"fail":0}`, 422, api.CodeETLFailed, "at piece 0")
		reader, err := c.Client.GetObject(t.Context(), "b", "dir/note.txt", api.GetOptions{ETL: []string{"pieces"}, ETLArgs: []byte(`{"n":100,"fail":50}`)})
		require.NoError(t, err)
		_, err = io.ReadAll(reader)
		require.ErrorContains(t, err, "broke off")
		require.NoError(t, reader.Close())
	})
	t.Run("kept outputs", func(t *testing.T) {
		const path = "/v1/objects/b/train.tar?etl=upper&cache=true"
		_, first, want := get(t, c, path)
		require.Equal(t, "miss", first.Get(api.HeaderCache))
		_, again, body := get(t, c, path)
		require.Equal(t, "hit", again.Get(api.HeaderCache))
		require.Equal(t, want, body)
		require.Equal(t, first.Get("ETag"), again.Get("ETag"))
		owner := c.Owner("b", "train.tar")
		owner.Stop()
		owner.Start()
		c.Await("the target is back", func() bool {
			m, err := c.Client.RefreshMap(t.Context())
			if err != nil {
				return false
			}
			node, _ := m.Owner("b", "train.tar")
			return node.State == api.StateOK
		})
		_, again, body = get(t, c, path)
		require.Equal(t, "hit", again.Get(api.HeaderCache), "kept over a restart")
		require.Equal(t, want, body)
	})
	t.Run("trials", func(t *testing.T) {
		try := func(name string, trial api.ETLTrial) api.ETLResult {
			t.Helper()
			result, err := c.Client.TestETL(t.Context(), name, trial)
			require.NoError(t, err)
			return result
		}
		r := try("upper", api.ETLTrial{Address: "ss://b/train.tar"})
		require.Nil(t, r.Error)
		require.Equal(t, "s/0000", r.Key)
		require.Equal(t, c.Owner("b", "train.tar").ID, r.Target)
		require.Positive(t, r.Version)
		require.Equal(t, []api.ETLField{
			{Name: "txt", DType: "text", Size: 3, Text: "ONE"},
			{Name: "len", DType: "int64", Size: 8, Text: "3"},
			{Name: "ratio", DType: "float64", Size: 8, Text: "0.5"},
			{Name: "ok", DType: "bool", Size: 1, Text: "1"},
		}, r.Fields)
		require.Equal(t, "seen s/0000\n", r.Log)
		r = try("upper", api.ETLTrial{Address: "ss://b/train.tar", Member: "s/0002.cls", Data: true})
		require.Equal(t, "s/0002", r.Key)
		_, contents := members(t, r.Data)
		require.Equal(t, "THREE", contents["s/0002.txt"])
		r = try("flip", api.ETLTrial{Address: "ss://b/dir/note.txt", Data: true})
		require.Equal(t, "olleh", string(r.Data))
		require.EqualValues(t, 5, r.Size)
		r = try("upper", api.ETLTrial{Address: "ss://b/broken.tar", Member: "s/0001.txt"})
		require.Equal(t, api.CodeETLFailed, r.Error.Code)
		require.Contains(t, r.Error.Message, "ValueError: bad text")
		require.Contains(t, r.Log, "seen s/0001")

		source := "def transform(data):\n    print('trying')\n    return data * 2\n"
		r = try("new", api.ETLTrial{Address: "ss://b/dir/note.txt", Data: true, Definition: &api.ETL{Source: source, Level: api.LevelObject}})
		require.Nil(t, r.Error)
		require.Equal(t, "hellohello", string(r.Data))
		require.Equal(t, "trying\n", r.Log)
		require.Zero(t, r.Version)
		_, err := c.Client.ETL(t.Context(), "new")
		require.Equal(t, api.CodeNoETL, codeOf(err), "it was not deployed")
		r = try("new", api.ETLTrial{Address: "ss://b/dir/note.txt", Definition: &api.ETL{Source: "import nothing_such"}})
		require.Contains(t, r.Error.Message, "nothing_such")
		r = try("new", api.ETLTrial{Address: "ss://b/dir/note.txt", Definition: &api.ETL{Source: "def transform(sample):\n    while True: pass\n", TimeoutS: 0.2}})
		require.Equal(t, api.CodeETLFailed, r.Error.Code)
		for code, x := range map[string]struct {
			name  string
			trial api.ETLTrial
		}{
			api.CodeNoETL:      {"nope", api.ETLTrial{Address: "ss://b/train.tar"}},
			api.CodeNotFound:   {"upper", api.ETLTrial{Address: "ss://b/nope"}},
			api.CodeNoBucket:   {"upper", api.ETLTrial{Address: "ss://nope/nope"}},
			api.CodeBadRequest: {"new", api.ETLTrial{Address: "ss://b/train.tar", Definition: &api.ETL{Source: "x", Kind: "wasm"}}},
			api.CodeBadName:    {"Bad Name", api.ETLTrial{Address: "ss://b/train.tar", Definition: &api.ETL{Source: "x"}}},
		} {
			_, err := c.Client.TestETL(t.Context(), x.name, x.trial)
			require.Equal(t, code, codeOf(err))
		}
	})
	t.Run("failures", func(t *testing.T) {
		refused(t, c, "/v1/objects/b/broken.tar?etl=upper", 422, api.CodeETLFailed,
			"ss://b/broken.tar", `s/0001`, "ValueError: bad text", `upper.py\", line 5`)
		refused(t, c, "/v1/objects/b/train.tar?etl=missing", 404, api.CodeNoETL, "missing")
		refused(t, c, "/v1/objects/b/train.tar?etl=..%2Fx", 404, api.CodeNoETL)
		refused(t, c, "/v1/objects/b/none.tar?etl=upper", 404, api.CodeNotFound)
		refused(t, c, "/v1/objects/b/train.tar?etl=upper,flip", 400, api.CodeBadRequest, "a chain needs one level")
		refused(t, c, "/v1/objects/b/train.tar?etl=upper,upper", 422, api.CodeETLFailed, "AttributeError")
	})
	t.Run("logs", func(t *testing.T) {
		status, _, body := get(t, c, "/v1/etls/upper/logs")
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, string(body), "==> target-1 <==\n")
		require.Contains(t, string(body), "==> target-2 <==\n")
		require.Contains(t, string(body), "seen s/0002\n")
		refused(t, c, "/v1/etls/missing/logs", 404, api.CodeNoETL)
	})
	t.Run("a change holds at once", func(t *testing.T) {
		for _, text := range []string{"1", "2", "3"} {
			deploy(t, c, api.ETL{Name: "const", Level: api.LevelObject, Source: "def transform(data): return b'" + text + "'"})
			_, _, body := get(t, c, "/v1/objects/b/dir/note.txt?etl=const")
			require.Equal(t, text, string(body))
		}
		require.NoError(t, c.Client.DeleteETL(t.Context(), "const"))
		refused(t, c, "/v1/objects/b/dir/note.txt?etl=const", 404, api.CodeNoETL)
		require.Equal(t, api.CodeNoETL, codeOf(c.Client.DeleteETL(t.Context(), "const")))
	})
	t.Run("work under way survives a change", func(t *testing.T) {
		slow := "import time\ndef transform(data):\n    print('begun')\n    time.sleep(1)\n    return b'old'"
		deploy(t, c, api.ETL{Name: "slow", Level: api.LevelObject, Source: slow})
		done := make(chan string, 1)
		go func() {
			_, _, body := get(t, c, "/v1/objects/b/dir/note.txt?etl=slow")
			done <- string(body)
		}()
		require.Eventually(t, func() bool {
			_, _, body := get(t, c, "/v1/etls/slow/logs")
			return strings.Contains(string(body), "begun")
		}, 10*time.Second, 10*time.Millisecond)
		deploy(t, c, api.ETL{Name: "slow", Level: api.LevelObject, Source: "def transform(data): return b'new'"})
		require.Equal(t, "old", <-done)
	})
	t.Run("arrays", func(t *testing.T) {
		python, err := etl.FindPython(t.Context(), "")
		require.NoError(t, err)
		if exec.Command(python, "-c", "import numpy").Run() != nil {
			t.Skip(python, "has no numpy; set", etl.PythonEnv)
		}
		deploy(t, c, api.ETL{Name: "arrays", Requirements: []string{"numpy"}, Source: `
import io, numpy as np
def transform(sample):
    if "a.npy" in sample:
        return {"sum": np.load(io.BytesIO(sample["a.npy"])).sum()}
    return {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "v.npy": np.ones(5), "half": np.float16(-0.25)}
`})
		_, _, body := get(t, c, "/v1/objects/b/dir/note.txt?etl=arrays")
		names, contents := members(t, body)
		require.Equal(t, []string{"dir/note.a.npy", "dir/note.v.npy", "dir/note.half"}, names)
		require.Equal(t, "-0.25", contents["dir/note.half"])
		put(t, c, "b", "arrays.tar", body)
		_, _, body = get(t, c, "/v1/objects/b/arrays.tar?etl=arrays")
		_, contents = members(t, body)
		require.Equal(t, "15", contents["dir/note.sum"])
	})
}
