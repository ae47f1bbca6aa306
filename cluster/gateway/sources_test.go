package gateway_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

// shardOf is a tar of so many samples.
func shardOf(t testing.TB, samples int) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range samples {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%06d.cls", i), Mode: 0o644, Size: 1, Format: tar.FormatUSTAR}))
		_, err := w.Write([]byte("7"))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.String()
}

func openStream(t testing.TB, c *clustertest.Cluster, samples string, sources ...string) (api.StreamInfo, error) {
	t.Helper()
	return c.Client.OpenStream(t.Context(), api.StreamRequest{
		Sources: sources, Samples: samples, BatchSize: 1, Shuffle: "none", WorldSize: 1,
	})
}

// requireRefused checks an error's code and message.
func requireRefused(t testing.TB, err error, code, says string) {
	t.Helper()
	var answer *api.Error
	require.True(t, errors.As(err, &answer), "%v", err)
	require.Equal(t, code, answer.Code)
	require.Contains(t, answer.Message, says)
	require.Less(t, len(answer.Message), 1000)
}

func TestManifestsKeepTheirOrder(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: 3, Disks: 1})
	createBucket(t, c, "b")
	createBucket(t, c, "other")
	for i := range 5 {
		put(t, c, "b", fmt.Sprintf("%d.tar", i), shardOf(t, 10+i))
	}
	put(t, c, "b", "[odd] {name}*.tar", shardOf(t, 1))
	put(t, c, "other", "x.tar", shardOf(t, 2))
	put(t, c, "b", "lists/train.txt", "# the training set\n\n  ss://b/3.tar \r\nss://b/[odd] {name}*.tar\n{\"url\": \"ss://other/x.tar\", \"note\": 1}\nss://b/0.tar")

	manifest, err := openStream(t, c, "", "@ss://b/lists/train.txt")
	require.NoError(t, err)
	require.EqualValues(t, 4, manifest.Shards)
	require.EqualValues(t, 13+1+2+10, manifest.Samples)
	list, err := openStream(t, c, api.SamplesShards, "ss://b/3.tar", "=ss://b/[odd] {name}*.tar", "ss://other/x.tar", "ss://b/0.tar")
	require.NoError(t, err)
	require.Equal(t, list.Snapshot, manifest.Snapshot, "the same shards in the same order are the same snapshot")
	turned, err := openStream(t, c, "", "ss://b/0.tar", "ss://other/x.tar", "=ss://b/[odd] {name}*.tar", "ss://b/3.tar")
	require.NoError(t, err)
	require.NotEqual(t, list.Snapshot, turned.Snapshot)
	both, err := openStream(t, c, "", "@ss://b/lists/train.txt", "ss://b/{1,2,4}.tar")
	require.NoError(t, err)
	require.EqualValues(t, 7, both.Shards)
	_, err = openStream(t, c, "", "@ss://b/lists/train.txt", "ss://b/?.tar")
	requireRefused(t, err, api.CodeBadRequest, "named by two sources")
}

func TestManifestsRefused(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1})
	createBucket(t, c, "b")
	put(t, c, "b", "a.tar", shardOf(t, 1))
	for name, m := range map[string]struct{ content, code, says string }{
		"empty":       {"", api.CodeBadRequest, "lists no objects"},
		"comments":    {"# nothing\n\n", api.CodeBadRequest, "lists no objects"},
		"no address":  {"ss://b/a.tar\na.tar\n", api.CodeBadRequest, "line 2"},
		"a bucket":    {"ss://b\n", api.CodeBadRequest, "line 1"},
		"a prefix":    {"ss://b/x/\n", api.CodeBadRequest, "line 1"},
		"broken JSON": {"{\"url\": \n", api.CodeBadRequest, "line 1 is not JSON"},
		"no url":      {"{\"uri\": \"ss://b/a.tar\"}\n", api.CodeBadRequest, `line 1 has no "url"`},
		"itself":      {"ss://b/itself\n", api.CodeBadRequest, "not an indexed tar"},
		"missing":     {"ss://b/a.tar\nss://b/b.tar\n", api.CodeNoMatch, "1 of the 2 objects that the sources name are not there: there is no object ss://b/b.tar;"},
		"bucket":      {"ss://nowhere/a.tar\n", api.CodeNoBucket, "nowhere"},
		"twice":       {"ss://b/a.tar\nss://b/a.tar\n", api.CodeBadRequest, "ss://b/a.tar is named by two"},
	} {
		t.Run(name, func(t *testing.T) {
			key := strings.ReplaceAll(name, " ", "-")
			put(t, c, "b", key, m.content)
			_, err := openStream(t, c, "", "@ss://b/"+key)
			requireRefused(t, err, m.code, m.says)
		})
	}
	for source, says := range map[string]string{
		"@ss://b/nothing": "there is no manifest ss://b/nothing", "@list.txt": "is not @ before", "@ss://b": "is not @ before", "=ss://b/": "is not = before",
	} {
		_, err := openStream(t, c, "", source)
		require.ErrorContains(t, err, says)
	}
}

func TestLongListsAreLookedUpTogether(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: 3, Disks: 1})
	createBucket(t, c, "b")
	const n = 10_000
	sources := make([]string, 0, n)
	for i := range n {
		sources = append(sources, fmt.Sprintf("ss://b/%06d.jpg", i*7919%n))
	}
	_, err := openStream(t, c, api.SamplesObjects, sources...)
	requireRefused(t, err, api.CodeNoMatch, "10000 of the 10000 objects that the sources name are not there: there is no object ss://b/000000.jpg, ss://b/007919.jpg, ss://b/005838.jpg, ...")
	for i := range 40 {
		put(t, c, "b", fmt.Sprintf("%06d.jpg", i), strings.Repeat("x", i))
	}
	sources = sources[:0]
	for i := range 40 {
		sources = append(sources, fmt.Sprintf("ss://b/%06d.jpg", 39-i))
	}
	info, err := openStream(t, c, api.SamplesObjects, sources...)
	require.NoError(t, err)
	require.EqualValues(t, 40, info.Samples)
	require.EqualValues(t, 39*40/2, info.Bytes)
	require.EqualValues(t, 39, info.MaxSample)
}

func TestObjectsAsSources(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1})
	createBucket(t, c, "b")
	for _, name := range []string{"cats/1.jpg", "cats/2.jpg", "cats/README", "cats/.hidden", "cats/more/3.tar", "dogs/1.jpg"} {
		put(t, c, "b", name, shardOf(t, 2))
	}
	info, err := openStream(t, c, api.SamplesObjects, "ss://b/cats/")
	require.NoError(t, err)
	require.EqualValues(t, 3, info.Samples, "what has no extension is passed over, and an archive is an object too")
	info, err = openStream(t, c, api.SamplesObjects, "ss://b/*/1.jpg")
	require.NoError(t, err)
	require.EqualValues(t, 2, info.Samples)
	_, err = openStream(t, c, api.SamplesObjects, "ss://b/cats/README")
	requireRefused(t, err, api.CodeBadRequest, "has no extension")
	_, err = openStream(t, c, api.SamplesObjects, "ss://b/cats/R*")
	requireRefused(t, err, api.CodeNoMatch, "matches no object with an extension")
	_, err = openStream(t, c, "", "ss://b/dogs/")
	requireRefused(t, err, api.CodeNoMatch, "samples=objects")
	_, err = openStream(t, c, "files", "ss://b/dogs/")
	requireRefused(t, err, api.CodeBadRequest, "shards or objects")
}

func TestDecodersAreCheckedWhenAStreamIsOpened(t *testing.T) {
	c := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	createBucket(t, c, "b")
	put(t, c, "b", "a.tar", shardOf(t, 1))
	for says, how := range map[string]any{
		"there are bytes, float, gray8, int, json, npy, rgb8, rgba8, text": "number",
		"not among the fields":        nil,
		"wants the name of a decoder": 7,
	} {
		r := api.StreamRequest{Sources: []string{"ss://b/a.tar"}, BatchSize: 1, Shuffle: "none", WorldSize: 1, Decode: map[string]any{"cls": how}}
		if how == nil {
			r.Decode, r.Fields = map[string]any{"cls": "int"}, []string{"jpg"}
		}
		_, err := c.Client.OpenStream(t.Context(), r)
		requireRefused(t, err, api.CodeBadRequest, says)
	}
}
