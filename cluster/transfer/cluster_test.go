package transfer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/transfer"
	"github.com/shardstream/shardstream/core/backend"
)

// clusters is an opener of two clusters, the second as HOST:PORT, and of a memory as s3://memory.
func clusters(t *testing.T, m *memory) (*transfer.Opener, *clustertest.Cluster, *clustertest.Cluster) {
	t.Helper()
	a := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1})
	b := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	o := opener(m)
	o.Cluster = func(at string) (*api.Client, error) {
		if at == "" {
			return a.Client, nil
		}
		return api.NewClient(api.Options{Endpoint: "http://" + at, NoToken: true})
	}
	return o, a, b
}

func shard(t *testing.T, samples int) string {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for i := range samples {
		content := fmt.Sprint(i)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%04d.txt", i), Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write([]byte(content))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buffer.String()
}

func TestThroughClusters(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two clusters")
	}
	m := newMemory()
	o, a, b := clusters(t, m)
	ctx := t.Context()
	_, err := a.Client.CreateBucket(ctx, "digits")
	require.NoError(t, err)
	other := "ss://" + strings.TrimPrefix(b.Endpoint(), "http://")
	files := map[string]string{"train-0.tar": shard(t, 3), "train-1.tar": shard(t, 5), "deep/labels.json": "{}", "empty": ""}
	source := folder(t, files)

	// Around: local, this cluster, the other one, a backend, this cluster, local.
	stops := []string{source, "ss://digits/v1", other + "/copy/of/v1", "s3://memory/back", "ss://digits/v2/", t.TempDir()}
	_, _, err = cp(t, o, nil, "ss://digits/", other+"/copy")
	require.ErrorContains(t, err, "copy", "there is no such bucket yet")
	o.CreateBucket = true
	for i := range len(stops) - 1 {
		totals, seen, err := cp(t, o, nil, stops[i], stops[i+1])
		require.NoError(t, err, stops[i])
		require.Empty(t, seen.errors(), stops[i])
		require.EqualValues(t, len(files), totals.Copied, stops[i])
	}
	require.Equal(t, files, onDisk(t, stops[len(stops)-1]))
	object, err := a.Client.StatObject(ctx, "digits", "v2/train-1.tar")
	require.NoError(t, err)
	require.EqualValues(t, 5, object.Samples)

	// Between clusters checksums say what is the same; from and to files time does.
	for i := range len(stops) - 1 {
		from, err := o.Folder(ctx, stops[i], true, transfer.Access{})
		require.NoError(t, err)
		to, err := o.Folder(ctx, stops[i+1], false, transfer.Access{})
		require.NoError(t, err)
		totals, _, err := synchronize(t, from, to, func(o *transfer.Options) { o.Delete = true })
		require.NoError(t, err)
		require.Equal(t, transfer.Totals{Skipped: int64(len(files))}, totals, stops[i])
		require.NoError(t, to.Close())
	}

	t.Run("overlaps are seen under any address", func(t *testing.T) {
		this := "ss://" + strings.TrimPrefix(a.Endpoint(), "http://")
		for _, args := range [][]string{
			{"ss://digits/v1/", "ss://digits/v1/x/"},
			{"ss://digits/", this + "/digits/v1/"},
			{this + "/digits/v1/empty", "ss://digits/v1/"},
		} {
			_, _, err := cp(t, o, nil, args...)
			var refusal *transfer.Refusal
			require.ErrorAs(t, err, &refusal, "%v", args)
		}
	})
	t.Run("what a cluster refuses", func(t *testing.T) {
		write(t, source, map[string]string{"torn.tar": shard(t, 3)[:700]})
		totals, seen, err := cp(t, o, nil, source, "ss://digits/v3/")
		require.NoError(t, err)
		require.EqualValues(t, 1, totals.Failed)
		require.EqualValues(t, len(files), totals.Copied)
		require.Contains(t, seen.errors(), "torn.tar")
		totals, _, err = cp(t, o, func(o *transfer.Options) { o.Opaque = true }, source, "ss://digits/v3/")
		require.NoError(t, err)
		require.Zero(t, totals.Failed)
	})
	t.Run("nothing is replaced unasked", func(t *testing.T) {
		m.set("new/train-0.tar", "not this")
		m.set("new/train-9.tar", "but this")
		totals, _, err := cp(t, o, func(o *transfer.Options) { o.NoOverwrite, o.Opaque = true, true }, "s3://memory/new/", "ss://digits/v1/")
		require.NoError(t, err)
		require.Equal(t, transfer.Totals{Copied: 1, Skipped: 1, Bytes: 8}, totals)
		require.Equal(t, files["train-0.tar"], read(t, a.Client, "digits", "v1/train-0.tar"))
	})
	t.Run("what users say of objects goes along", func(t *testing.T) {
		_, err := a.Client.PutObject(ctx, "digits", "said", strings.NewReader("x"), 1, api.PutOptions{
			ContentType: "text/x-digits", Meta: map[string]string{"origin": "here"},
		})
		require.NoError(t, err)
		_, seen, err := cp(t, o, nil, "ss://digits/said", other+"/copy/")
		require.NoError(t, err)
		require.Empty(t, seen.errors())
		object, err := b.Client.StatObject(ctx, "copy", "said")
		require.NoError(t, err)
		require.Equal(t, "text/x-digits", object.ContentType)
		require.Equal(t, map[string]string{"origin": "here"}, object.Meta)
	})
	t.Run("a source that breaks off", func(t *testing.T) {
		m.set("long", strings.Repeat("x", 3<<20))
		m.cut = func(string, int64) int64 { return 1 << 20 }
		defer func() { m.cut = nil }()
		_, seen, err := cp(t, o, nil, "s3://memory/long", "ss://digits/")
		require.NoError(t, err)
		require.Contains(t, seen.errors(), "cut", "the source's own words, not the cluster's")
		_, err = a.Client.StatObject(ctx, "digits", "long")
		require.Error(t, err)
	})
	t.Run("a stream", func(t *testing.T) {
		target, err := o.Target(ctx, "ss://digits/piped", true, transfer.Access{})
		require.NoError(t, err)
		options, seen := options()
		_, err = transfer.Copy(ctx, []*transfer.Source{transfer.StreamSource("stdin", strings.NewReader("from a pipe"))}, target, options)
		require.NoError(t, err)
		require.Empty(t, seen.errors())
		require.Equal(t, "from a pipe", read(t, a.Client, "digits", "piped"))
	})
	t.Run("deleting", func(t *testing.T) {
		from, err := o.Folder(ctx, "ss://digits/v2", true, transfer.Access{})
		require.NoError(t, err)
		to, err := o.Folder(ctx, other+"/copy", false, transfer.Access{})
		require.NoError(t, err)
		_, _, err = synchronize(t, from, to, func(o *transfer.Options) { o.Delete = true })
		require.NoError(t, err)
		require.Equal(t, files, contents(t, to))
	})
}

func read(t *testing.T, c *api.Client, bucket, key string) string {
	t.Helper()
	r, err := c.GetObject(context.Background(), bucket, key, api.GetOptions{})
	require.NoError(t, err)
	defer r.Close()
	var all bytes.Buffer
	_, err = all.ReadFrom(r)
	require.NoError(t, err)
	return all.String()
}

var _ backend.Backend = (*memory)(nil)
