package scale_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/sampler"
)

// pulling is a cluster of real targets that were given the pages of a snapshot, as a gateway does it with
// one that is large.
type pulling struct {
	*clustertest.Cluster
	t      *testing.T
	snap   *sampler.Snapshot
	placer *api.Placer
}

func startPulling(t *testing.T, targets, pages int) *pulling {
	t.Helper()
	var b sampler.Builder
	for i := range pages { // no two fit into one page
		require.NoError(t, b.Add(sampler.Shard{Name: fmt.Sprintf("b/%06d.tar", i), Version: 7, Samples: 1 << 32}))
	}
	snap, err := b.Snapshot()
	require.NoError(t, err)
	c := &pulling{Cluster: clustertest.Start(t, clustertest.Options{Targets: targets, Disks: 1, LeaseTTL: calm}), t: t, snap: snap}
	c.placer, err = c.Client.RefreshMap(t.Context())
	require.NoError(t, err)
	return c
}

func (c *pulling) request(n *clustertest.Node, method, path string, body []byte) (status int, answer []byte) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://"+n.Addr()+path, bytes.NewReader(body))
	require.NoError(c.t, err)
	if method == http.MethodPost {
		req.Header.Set("Upgrade", api.StreamProtocol)
		req.Header.Set("Connection", "Upgrade")
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		answer, err = io.ReadAll(resp.Body)
		require.NoError(c.t, err)
	}
	return resp.StatusCode, answer
}

// spread gives each page to its holders, but for those that skip names.
func (c *pulling) spread(skip func(p *sampler.Page, n string) bool) {
	c.t.Helper()
	packs := make(map[string][]byte)
	for _, p := range c.snap.Pages() {
		for _, n := range c.placer.Rank(p.ID().String(), api.SnapshotHolders) {
			if !skip(p, n.ID) {
				packs[n.ID] = sampler.AppendPart(packs[n.ID], p.Data())
			}
		}
	}
	for id, pack := range packs {
		status, answer := c.request(c.Target(id), http.MethodPut, "/v1/pages", pack)
		require.Equal(c.t, http.StatusNoContent, status, string(answer))
	}
}

// putRoot gives the root to the snapshot's holders.
func (c *pulling) putRoot() (status []int) {
	c.t.Helper()
	for _, n := range c.placer.Rank(c.snap.ID(), api.SnapshotHolders) {
		s, _ := c.request(c.Target(n.ID), http.MethodPut, "/v1/snapshots/"+c.snap.ID(), sampler.AppendPart(nil, c.snap.Root().Data()))
		status = append(status, s)
	}
	return status
}

// open opens a stream at a target.
func (c *pulling) open(n *clustertest.Node) (status int, answer []byte) {
	c.t.Helper()
	body, err := json.Marshal(wire.ReadRequest{BatchSize: 8, World: 1, Workers: 1, Shuffle: "global", To: 1, Chunk: 1})
	require.NoError(c.t, err)
	return c.request(n, http.MethodPost, "/v1/streams/"+c.snap.ID()+"/read", body)
}

var pageReads = regexp.MustCompile(`(?m)^shardstream_http_requests_total\{code="200",method="POST",route="/v1/pages"\} (\d+)$`)

// pageReads is how often a target was asked for pages.
func (c *pulling) pageReads(n *clustertest.Node) int {
	c.t.Helper()
	_, metrics := c.request(n, http.MethodGet, "/metrics", nil)
	found := pageReads.FindSubmatch(metrics)
	if found == nil {
		return 0
	}
	count, err := strconv.Atoi(string(found[1]))
	require.NoError(c.t, err)
	return count
}

func nobody(*sampler.Page, string) bool { return false }

func TestTargetsPullPagesFromEachOther(t *testing.T) {
	const targets = 10
	c := startPulling(t, targets, 900)
	c.spread(nobody)
	require.Equal(t, []int{204, 204, 204}, c.putRoot())
	for _, n := range c.Targets {
		status, answer := c.open(n)
		require.Equal(t, http.StatusSwitchingProtocols, status, string(answer))
		status, _ = c.request(n, http.MethodHead, "/v1/snapshots/"+c.snap.ID(), nil)
		require.Equal(t, http.StatusNoContent, status)
	}
	for _, n := range c.Targets {
		asked := c.pageReads(n)
		require.Positive(t, asked, "%s was asked for pages", n.ID)
		require.Less(t, asked, 4*targets, "%s was asked for pages more often than by everyone for its share", n.ID)
	}
}

func TestPagesSurviveTheirHolders(t *testing.T) {
	c := startPulling(t, 5, 300)
	first := c.snap.Pages()[0].ID()
	c.spread(func(p *sampler.Page, n string) bool { return p.ID() == first })
	require.Equal(t, []int{409, 409, 409}, c.putRoot(), "a page is nowhere")
	status, answer := c.open(c.Targets[0])
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, string(answer), api.CodeNoSnapshot)

	c.spread(nobody)
	require.Equal(t, []int{204, 204, 204}, c.putRoot())
	// Two of five stop: what is left of any three holders is enough.
	c.Targets[0].Stop()
	c.Targets[1].Stop()
	for _, n := range c.Targets[2:] {
		status, answer := c.open(n)
		require.Equal(t, http.StatusSwitchingProtocols, status, string(answer))
	}
}
