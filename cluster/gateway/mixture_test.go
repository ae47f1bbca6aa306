package gateway_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

func putShard(t testing.TB, c *clustertest.Cluster, key string, samples int) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range samples {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%06d.txt", i), Mode: 0o644, Size: 1}))
		_, _ = w.Write([]byte("x"))
	}
	require.NoError(t, w.Close())
	put(t, c, "b", key, buf.String())
}

func number[T any](v T) *T { return &v }

// A bucket with sources of 100, 300 and no samples.
func mixtures(t *testing.T) *clustertest.Cluster {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	createBucket(t, cluster, "b")
	for i := range 2 {
		putShard(t, cluster, fmt.Sprintf("small/%d.tar", i), 50)
		putShard(t, cluster, fmt.Sprintf("large/%d.tar", i), 150)
	}
	putShard(t, cluster, "empty/0.tar", 0)
	return cluster
}

func TestMixturesAreSharedOut(t *testing.T) {
	cluster := mixtures(t)
	small, large := []string{"ss://b/small/"}, []string{"ss://b/large/*.tar"}
	for _, c := range []struct {
		name       string
		a, b       api.MixtureSource
		samples    int64
		interleave string
		want       [2]int64
	}{
		{"all once", api.MixtureSource{}, api.MixtureSource{}, 0, "", [2]int64{100, 300}},
		{"all, in an epoch of some length", api.MixtureSource{}, api.MixtureSource{}, 1000, "", [2]int64{250, 750}},
		{"weights of as many as there are", api.MixtureSource{Weight: number(0.7)}, api.MixtureSource{Weight: number(0.3)}, 0, "random", [2]int64{280, 120}},
		{"weights of some length", api.MixtureSource{Weight: number(1.0)}, api.MixtureSource{Weight: number(2.0)}, 10, "stratified", [2]int64{3, 7}},
		{"a weight of 0", api.MixtureSource{Weight: number(0.0)}, api.MixtureSource{Weight: number(2.0)}, 10, "", [2]int64{0, 10}},
		{"repeat, and once", api.MixtureSource{Repeat: number(2.5)}, api.MixtureSource{}, 0, "", [2]int64{250, 300}},
		{"repeat of a part, to the nearest", api.MixtureSource{Repeat: number(0.016)}, api.MixtureSource{Repeat: number(1e-9)}, 0, "", [2]int64{2, 1}},
		{"samples", api.MixtureSource{Samples: number(int64(7))}, api.MixtureSource{Samples: number(int64(0))}, 0, "", [2]int64{7, 0}},
		{"units, all once", api.MixtureSource{}, api.MixtureSource{}, 0, "per_source", [2]int64{96, 304}},
		{"units by weight", api.MixtureSource{Weight: number(1.0)}, api.MixtureSource{Weight: number(1.0)}, 100, "per_source", [2]int64{48, 48}},
		{"units, one at least", api.MixtureSource{Samples: number(int64(1))}, api.MixtureSource{}, 0, "per_source", [2]int64{16, 304}},
		{"one source twice", api.MixtureSource{Sources: large}, api.MixtureSource{}, 0, "", [2]int64{300, 300}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.a.Sources == nil {
				c.a.Sources = small
			}
			c.b.Sources = large
			info, err := cluster.Client.OpenStream(t.Context(), api.StreamRequest{
				BatchSize: 16, WorldSize: 1, Mixture: &api.Mixture{Sources: []api.MixtureSource{c.a, c.b}, Samples: c.samples, Interleave: c.interleave},
			})
			require.NoError(t, err)
			total := c.want[0] + c.want[1]
			assert.Equal(t, total, info.Samples)
			assert.Equal(t, (total+15)/16, info.Batches)
			assert.EqualValues(t, 4, info.Shards)
			require.Len(t, info.Mixture.Parts, 2)
			assert.Equal(t, c.want, [2]int64{info.Mixture.Parts[0].Draws, info.Mixture.Parts[1].Draws})
			assert.Equal(t, api.MixturePart{Shards: 2, Samples: 300, Draws: c.want[1], Shuffle: "global"}, info.Mixture.Parts[1])
			if c.interleave == "per_source" {
				assert.EqualValues(t, 16, info.Mixture.Unit)
			}
		})
	}
}

func TestBadMixtures(t *testing.T) {
	cluster := mixtures(t)
	source := func(s api.MixtureSource) api.MixtureSource {
		if s.Sources == nil {
			s.Sources = []string{"ss://b/small/"}
		}
		return s
	}
	weight := func(w float64) api.MixtureSource { return api.MixtureSource{Weight: &w} }
	mix := func(sources ...api.MixtureSource) api.StreamRequest {
		for i := range sources {
			sources[i] = source(sources[i])
		}
		return api.StreamRequest{Mixture: &api.Mixture{Sources: sources}}
	}
	edit := func(r api.StreamRequest, f func(*api.StreamRequest)) api.StreamRequest { f(&r); return r }
	for _, c := range []struct {
		want string
		req  api.StreamRequest
	}{
		{"1 to 1000 sources, not 0", mix()},
		{"not 1001", mix(make([]api.MixtureSource, 1001)...)},
		{"takes the place of", edit(mix(weight(1)), func(r *api.StreamRequest) { r.Sources = []string{"ss://b/"} })},
		{"takes the place of", edit(mix(weight(1)), func(r *api.StreamRequest) { r.Shuffle = "global" })},
		{"takes the place of", edit(mix(weight(1)), func(r *api.StreamRequest) { r.ETL = "f" })},
		{"source 1 of the mixture has no address", mix(weight(1), api.MixtureSource{Sources: []string{}})},
		{"1 of the mixture's 2 sources have a weight", mix(weight(1), api.MixtureSource{})},
		{"weight of source 0 (ss://b/small/) must be 0 or more, not -1", mix(weight(-1))},
		{"one at least is more", mix(weight(0), weight(0))},
		{"repeat of source 0", mix(api.MixtureSource{Repeat: number(-1.0)})},
		{"samples of source 0", mix(api.MixtureSource{Samples: number(int64(-1))})},
		{"which is it?", mix(api.MixtureSource{Samples: number(int64(1)), Repeat: number(1.0)})},
		{"leave samples of the mixture out", edit(mix(api.MixtureSource{Repeat: number(1.0)}), func(r *api.StreamRequest) { r.Mixture.Samples = 10 })},
		{"samples of the epoch", edit(mix(weight(1)), func(r *api.StreamRequest) { r.Mixture.Samples = -1 })},
		{`unknown interleave "blended"`, edit(mix(weight(1)), func(r *api.StreamRequest) { r.Mixture.Interleave = "blended" })},
		{`unknown shuffle "sideways"`, mix(api.MixtureSource{Shuffle: "sideways"})},
		{`undoes shuffle "none" of source 0`, mix(api.MixtureSource{Shuffle: "none"})},
		{"no etl", mix(api.MixtureSource{ETL: "nope"})},
		{"matches no object", mix(api.MixtureSource{Sources: []string{"ss://b/nothing/"}})},
		{"named by two sources", mix(api.MixtureSource{Sources: []string{"ss://b/small/", "ss://b/*/0.tar"}})},
		{"hold no samples", mix(api.MixtureSource{Sources: []string{"ss://b/empty/"}})},
		{"comes to none of the epoch's 2 samples", edit(mix(weight(1), weight(1000)), func(r *api.StreamRequest) { r.Mixture.Samples = 2 })},
		{"gives any samples", mix(api.MixtureSource{Samples: number(int64(0))})},
		{"more than 1125899906842624 samples", mix(api.MixtureSource{Repeat: number(1e14)})},
		{"passes an epoch", edit(mix(api.MixtureSource{Repeat: number(1e12), Shuffle: "shards"}), func(r *api.StreamRequest) { r.Mixture.Interleave = "stratified" })},
	} {
		c.req.BatchSize, c.req.WorldSize = 16, 1
		_, err := cluster.Client.OpenStream(t.Context(), c.req)
		var ae *api.Error
		if assert.ErrorAs(t, err, &ae, c.want) {
			assert.Contains(t, ae.Message, c.want)
			assert.Contains(t, []int{400, 404}, ae.Status)
		}
	}
}
