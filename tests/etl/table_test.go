package etl

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl/enginetest"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

// cell is one row of the table of docs/guides/containers.md: a kind by a transport, with what makes it.
type cell struct {
	kind, transport string
	object, stream  api.ETL // for whole objects, and for the samples of a stream
	refused         string  // why there is no such thing
}

// TestEveryKindByEveryTransport: what the guide's table says that runs runs, inline, in a stream and offline; what it
// says that does not is refused for the reason that it gives.
func TestEveryKindByEveryTransport(t *testing.T) {
	c := start(t, "--targets", "2")
	for _, bucket := range []string{"in", "shards", "out"} {
		c.mustRun("bucket", "create", bucket, "--endpoint", c.endpoint)
	}
	for i := range 4 {
		c.put("in", fmt.Sprintf("dir/%d .txt", i), []byte(fmt.Sprintf("object %d", i)))
	}
	c.put("shards", "a.tar", shard(t, 0, 8))
	c.put("shards", "b.tar", shard(t, 8, 8))
	server := userServer(t, c)

	image := enginetest.Image(t)
	container := func(transport, network string) api.ETL {
		return api.ETL{Kind: "container", Image: image, Transport: transport, Network: network, Fields: []string{"txt"}, Memory: 128 << 20, Workers: 2}
	}
	filter := container("stdio", "none")
	filter.Command = []string{"/program", "filter"}
	user := func(transport string) api.ETL {
		return api.ETL{Kind: "server", URL: server, Transport: transport, Fields: []string{"txt"}}
	}
	command := func(transport string) api.ETL {
		return api.ETL{Kind: "command", Command: []string{"tr", "a-z", "A-Z"}, Transport: transport, Fields: []string{"txt"}}
	}
	function := func(level, transport string) api.ETL {
		source := "def transform(data):\n    return data.upper()\n"
		if level == api.LevelSample {
			source = "def transform(sample):\n    return {\"txt\": sample[\"txt\"].upper()}\n"
		}
		return api.ETL{Kind: "function", Level: level, Source: source, Transport: transport, Workers: 1}
	}
	same := func(kind, transport string, e api.ETL) cell {
		return cell{kind: kind, transport: transport, object: e, stream: e}
	}
	not := func(kind, transport, why string, e api.ETL) cell {
		return cell{kind: kind, transport: transport, object: e, refused: why}
	}
	for _, row := range []cell{
		{kind: "function", transport: "push", object: function(api.LevelObject, "push"), stream: function(api.LevelSample, "push")},
		not("function", "redirect", "has no server of its own", function(api.LevelObject, "redirect")),
		not("function", "proxy", "has no server of its own", function(api.LevelObject, "proxy")),
		not("function", "stdio", "has no server of its own", function(api.LevelObject, "stdio")),
		same("container", "push", container("push", "none")),
		same("container", "redirect", container("redirect", "host")),
		same("container", "proxy", container("proxy", "host")),
		same("container", "stdio", filter),
		not("container", "redirect without a network", "needs the network host or bridge", container("redirect", "none")),
		same("server", "push", user("push")),
		same("server", "redirect", user("redirect")),
		same("server", "proxy", user("proxy")),
		not("server", "stdio", "does not go with kind server", user("stdio")),
		not("command", "push", "reads stdin and writes stdout", command("push")),
		not("command", "redirect", "reads stdin and writes stdout", command("redirect")),
		not("command", "proxy", "reads stdin and writes stdout", command("proxy")),
		same("command", "stdio", command("stdio")),
	} {
		t.Run(row.kind+" by "+row.transport, func(t *testing.T) {
			c := *c
			c.t = t
			if row.refused != "" {
				row.object.Name = "refused"
				_, err := c.client.PutETL(t.Context(), row.object)
				require.Contains(t, refused(t, err), row.refused)
				return
			}
			name := row.kind + "-" + row.transport
			row.object.Name, row.stream.Name = name, name
			c.deploy(row.object)
			t.Run("inline", func(t *testing.T) { c.inline(t, row) })
			t.Run("offline", func(t *testing.T) { c.offline(t, row) })
			c.deploy(row.stream)
			t.Run("stream", func(t *testing.T) { c.streams(t, row) })
			require.NoError(t, c.client.DeleteETL(t.Context(), name))
		})
	}
	require.Eventually(t, func() bool { return len(enginetest.Containers(t, "shardstream-container-")) == 0 }, 60*time.Second, 100*time.Millisecond,
		"nothing is left of ETLs that were removed")
}

func (c *cluster) inline(t *testing.T, row cell) {
	for i := range 4 {
		name := "/v1/objects/in/" + url.PathEscape(fmt.Sprintf("dir/%d .txt", i)) + "?etl=" + row.object.Name
		status, body, from, err := c.get(name)
		require.NoError(t, err)
		require.Equal(t, 200, status, body)
		require.Equal(t, fmt.Sprintf("OBJECT %d", i), body)
		if row.transport == "redirect" {
			require.Equal(t, fmt.Sprintf("/in/dir/%d .txt", i), from, "the client was not sent on to the server")
		}
	}
}

func (c *cluster) offline(t *testing.T, row cell) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	job, err := c.client.StartJob(ctx, api.JobSpec{Kind: api.JobTransform, Transform: &api.TransformSpec{
		ETL: row.object.Name, Source: "ss://in/", Destination: "ss://out/" + row.object.Name + "/",
	}})
	require.NoError(t, err)
	job, err = c.client.WaitJob(ctx, job.ID, func(api.Job) {})
	require.NoError(t, err)
	require.Equal(t, api.JobDone, job.State, "%+v", job.Error)
	require.EqualValues(t, 4, job.Counts.Done, "%+v", job.Counts)
	for i := range 4 {
		reader, err := c.client.GetObject(ctx, "out", fmt.Sprintf("%s/dir/%d .txt", row.object.Name, i), api.GetOptions{})
		require.NoError(t, err)
		body, err := io.ReadAll(reader)
		require.NoError(t, errors.Join(err, reader.Close()))
		require.Equal(t, fmt.Sprintf("OBJECT %d", i), string(body))
	}
}

func (c *cluster) streams(t *testing.T, row cell) {
	l, err := loader.New(loader.Config{
		Sources: []string{"ss://shards/*.tar"}, BatchSize: 5, Shuffle: "global", ETL: row.stream.Name, Fields: []string{"txt"}, Timeout: 30 * time.Second,
	}, c.client)
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	require.NoError(t, l.Start(loader.Run{}))
	seen := map[string]string{}
	for {
		slot, table, err := l.Next(40 * time.Second)
		if errors.Is(err, loader.ErrEnd) {
			break
		}
		require.NoError(t, err)
		mem, err := l.View(slot)
		require.NoError(t, err)
		batch := arena.Read(mem, table)
		for i, key := range batch.Keys {
			seen[key] = string(batch.Columns["txt"].Ragged[i])
		}
		require.NoError(t, l.Release(slot))
	}
	require.Len(t, seen, 16)
	for i := range 16 {
		require.Equal(t, fmt.Sprintf("TEXT %d", i), seen[fmt.Sprintf("s/%04d", i)])
	}
}

// shard is a tar of samples with a text and a class each.
func shard(t *testing.T, from, samples int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := from; i < from+samples; i++ {
		for _, m := range [][2]string{{"cls", "1"}, {"txt", fmt.Sprintf("text %d", i)}} {
			require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("s/%04d.%s", i, m[0]), Mode: 0o644, Size: int64(len(m[1]))}))
			_, err := w.Write([]byte(m[1]))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

// userServer runs the test program as a server that nobody but the user knows of. It reads from one target, by the URL
// that the guide gives, whatever ETL asks.
func userServer(t *testing.T, c *cluster) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	placer, err := c.client.RefreshMap(t.Context())
	require.NoError(t, err)
	server := exec.Command(enginetest.Program(t), "serve")
	server.Env = append(os.Environ(), "PORT="+strconv.Itoa(port), "SHARDSTREAM_TARGET_URL=http://"+placer.Map.Targets()[0].Addr+"/v1/etl-objects/reader")
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, 20*time.Second, 20*time.Millisecond)
	// An ETL of kind server has to be there for as long as the target is asked for its objects.
	c.deploy(api.ETL{Name: "reader", Kind: "server", URL: "http://127.0.0.1:" + strconv.Itoa(port)})
	return "http://{host}:" + strconv.Itoa(port)
}
