package gateway

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/sampler"
)

const (
	// fewTargets is the number up to which each gets the snapshot at once.
	fewTargets  = 8
	pushTimeout = 30 * time.Second
	headTimeout = 3 * time.Second
	pushAtOnce  = 32 // targets
	maxPushed   = 1 << 17
)

// distribute sees to it that the targets can have the snapshot: each needs it to compute its part of the
// plan. A few are given it, which follow from its id, and who lacks it asks those. Of a snapshot that is
// too large for one piece, the pages are spread first: each goes to a few targets that follow from the
// page's id, so that all targets serve each other. What is there already is not sent again.
func (g *Gateway) distribute(ctx context.Context, snap *sampler.Snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	lacking, have, err := g.lacking(ctx, snap.ID())
	if len(lacking) == 0 || err != nil {
		return err
	}
	pack, whole := stream.Pack(snap, stream.InOnePiece)
	if !whole && have == 0 {
		if err := g.spread(ctx, snap.Pages()); err != nil {
			return err
		}
	}
	err = g.putSnapshot(ctx, lacking, snap.ID(), pack)
	var ae *api.Error
	if have == 0 && errors.As(err, &ae) && ae.Code == api.CodeMissingPages { // they are gone since they were pushed
		g.pushed.forget(snap.Pages())
		if err := g.spread(ctx, snap.Pages()); err != nil {
			return err
		}
		err = g.putSnapshot(ctx, lacking, snap.ID(), pack)
	}
	if have > 0 {
		return nil // enough to go on
	}
	return err
}

// lacking lists those of the snapshot's holders that answer and don't have it, and counts those that do. It
// is an error only where no holder answers.
func (g *Gateway) lacking(ctx context.Context, id string) (lacking []api.Node, have int, err error) {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	placer := g.members.View().Placer
	few := fewTargets
	if len(placer.Map.Targets()) > fewTargets {
		few = api.SnapshotHolders
	}
	holders := upTargets(placer, id, few)
	if len(holders) == 0 {
		return nil, 0, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "no target is up")
	}
	status := make([]int, len(holders)) // 0: no answer
	errs := make([]error, len(holders))
	each(holders, len(holders), func(i int, n api.Node) {
		status[i], errs[i] = g.send(ctx, n, http.MethodHead, "/v1/snapshots/"+id, nil)
	})
	for i, n := range holders {
		switch {
		case status[i] == http.StatusNoContent:
			have++
		case status[i] != 0:
			lacking = append(lacking, n)
		}
	}
	if have == 0 && len(lacking) == 0 {
		return nil, 0, errs[0]
	}
	return lacking, have, nil
}

// upTargets are the first targets by a key, at most n, that are up.
func upTargets(placer *api.Placer, key string, n int) []api.Node {
	for ask := n; ; ask *= 2 {
		ranked := placer.Rank(key, ask)
		var up []api.Node
		for _, node := range ranked {
			if node.State != api.StateDown && len(up) < n {
				up = append(up, node)
			}
		}
		if len(up) == n || len(ranked) < ask {
			return up
		}
	}
}

// each calls f for each node, some at a time.
func each(nodes []api.Node, atOnce int, f func(i int, n api.Node)) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, n := range nodes {
		group.Go(func() error { f(i, n); return nil })
	}
	_ = group.Wait() // f keeps its errors
}

// putSnapshot gives a snapshot to its holders; those that lack pages get them from their peers. One holder
// is enough to go on.
func (g *Gateway) putSnapshot(ctx context.Context, holders []api.Node, id string, pack []byte) error {
	errs := make([]error, len(holders))
	each(holders, len(holders), func(i int, n api.Node) {
		_, errs[i] = g.send(ctx, n, http.MethodPut, "/v1/snapshots/"+id, pack)
	})
	worst := errs[0]
	for _, err := range errs {
		if err == nil {
			return nil
		}
		var ae *api.Error
		if errors.As(err, &ae) && ae.Code == api.CodeMissingPages {
			worst = err // the one that something can be done about
		}
	}
	return worst
}

// spread gives each page to its holders, but for those that were given before. One holder is enough.
func (g *Gateway) spread(ctx context.Context, pages []*sampler.Page) error {
	placer := g.members.View().Placer
	share := make(map[string][]*sampler.Page)
	var nodes []api.Node
	pages = g.pushed.fresh(pages)
	for _, p := range pages {
		for _, n := range upTargets(placer, p.ID().String(), api.SnapshotHolders) {
			if share[n.ID] == nil {
				nodes = append(nodes, n)
			}
			share[n.ID] = append(share[n.ID], p)
		}
	}
	var mu sync.Mutex
	var last error
	placed := make(map[sampler.PageID]bool, len(pages))
	each(nodes, pushAtOnce, func(_ int, n api.Node) {
		done, err := g.putPages(ctx, n, share[n.ID])
		mu.Lock()
		defer mu.Unlock()
		for _, p := range done {
			placed[p.ID()] = true
		}
		if err != nil {
			last = err
		}
	})
	for _, p := range pages {
		if !placed[p.ID()] {
			return last
		}
	}
	g.pushed.add(pages)
	return nil
}

// putPages sends pages to a target, and returns those that it took.
func (g *Gateway) putPages(ctx context.Context, n api.Node, pages []*sampler.Page) (done []*sampler.Page, err error) {
	for len(done) < len(pages) {
		var pack []byte
		some := pages[len(done):min(len(done)+api.MaxPages, len(pages))]
		for _, p := range some {
			pack = sampler.AppendPart(pack, p.Data())
		}
		if _, err := g.send(ctx, n, http.MethodPut, "/v1/pages", pack); err != nil {
			return done, err
		}
		done = pages[:len(done)+len(some)]
	}
	return done, nil
}

// send makes a request whose answer is its status: 0 where there is none.
func (g *Gateway) send(ctx context.Context, n api.Node, method, path string, body []byte) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.Addr+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set(api.HeaderRequestID, telemetry.RequestIDOf(ctx))
	resp, err := g.peers.Do(req)
	if err != nil {
		return 0, silent(n, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 300 {
		return resp.StatusCode, api.ErrorOf(resp)
	}
	return resp.StatusCode, nil
}

// pushedPages remembers pages that were spread, so that a snapshot that differs from an earlier one in a
// few costs those few. It may be wrong: a holder that finds a page nowhere says so.
type pushedPages struct {
	mu  sync.Mutex
	ids map[sampler.PageID]bool
}

// fresh are the pages that were not spread yet, each once.
func (p *pushedPages) fresh(pages []*sampler.Page) []*sampler.Page {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*sampler.Page
	listed := make(map[sampler.PageID]bool, len(pages))
	for _, page := range pages {
		if id := page.ID(); !p.ids[id] && !listed[id] {
			listed[id] = true
			list = append(list, page)
		}
	}
	return list
}

func (p *pushedPages) add(pages []*sampler.Page) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ids == nil || len(p.ids)+len(pages) > maxPushed {
		p.ids = make(map[sampler.PageID]bool)
	}
	for _, page := range pages {
		p.ids[page.ID()] = true
	}
}

func (p *pushedPages) forget(pages []*sampler.Page) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, page := range pages {
		delete(p.ids, page.ID())
	}
}
