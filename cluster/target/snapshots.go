package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/sampler"
)

const (
	maxPack      = stream.InOnePiece + 1<<20
	maxPages     = api.MaxPages * (sampler.MaxPageBytes + 8) // bytes
	maxPageList  = 16 << 10                                  // bytes of JSON
	askedForRoot = 32                                        // targets, until a snapshot counts as lost
	askedAtOnce  = 16                                        // targets, for pages
)

// handleSnapshots adds the routes by which gateways and targets hand snapshots on.
func (s *Streams) handleSnapshots() {
	s.target.Handle(http.MethodPut, "/v1/snapshots/{id}", s.putSnapshot)
	s.target.Handle(http.MethodGet, "/v1/snapshots/{id}", s.getSnapshot)
	s.target.Handle(http.MethodHead, "/v1/snapshots/{id}", s.headSnapshot)
	s.target.Handle(http.MethodPut, "/v1/pages", s.putPages)
	s.target.Handle(http.MethodPost, "/v1/pages", s.readPages)
}

func (s *Streams) putSnapshot(r *Request) error {
	data, err := r.Bytes(maxPack)
	if err != nil {
		return err
	}
	if err := s.server.Snapshots.Pull(r.Context(), r.Param("id"), data); err != nil {
		return err
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

func (s *Streams) getSnapshot(r *Request) error {
	data, err := s.server.Snapshots.Data(r.Param("id"))
	if err != nil {
		return err
	}
	r.SetContentType("application/octet-stream")
	r.Response.SetBodyRaw(data)
	return nil
}

func (s *Streams) headSnapshot(r *Request) error {
	if !s.server.Snapshots.Has(r.Param("id")) {
		return api.Errorf(http.StatusNotFound, api.CodeNoSnapshot, "no such snapshot")
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

func (s *Streams) putPages(r *Request) error {
	data, err := r.Bytes(maxPages)
	if err != nil {
		return err
	}
	if err := s.server.Snapshots.PutPages(data); err != nil {
		return err
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// readPages answers with those of the pages that are here.
func (s *Streams) readPages(r *Request) error {
	var ids []sampler.PageID
	if err := r.JSON(maxPageList, &ids); err != nil {
		return err
	}
	if len(ids) > api.MaxPages {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%d pages, at most %d at once", len(ids), api.MaxPages)
	}
	r.SetContentType("application/octet-stream")
	r.Response.SetBodyRaw(s.server.Snapshots.Pages(ids))
	return nil
}

// peersFor lists the other targets to ask for what goes by a key, at most n: those first that a gateway
// gave it to, and those last that are down.
func (s *Streams) peersFor(key string, n int) []api.Node {
	peers := slices.DeleteFunc(s.target.Placer().Rank(key, n+1), func(node api.Node) bool { return node.ID == s.target.id })
	slices.SortStableFunc(peers, func(a, b api.Node) int { return down(a) - down(b) })
	return peers[:min(n, len(peers))]
}

func down(n api.Node) int {
	if n.State == api.StateDown {
		return 1
	}
	return 0
}

// fetchSnapshot asks the other targets. Whoever answers first will do, as the id is the content's hash.
func (s *Streams) fetchSnapshot(ctx context.Context, id string) ([]byte, error) {
	last := api.Errorf(http.StatusNotFound, api.CodeNoSnapshot, "no target has snapshot %.12s; open the stream again", id)
	for _, n := range s.peersFor(id, askedForRoot) {
		data, err := s.ask(ctx, n, http.MethodGet, "/v1/snapshots/"+id, nil, maxPack)
		if err == nil {
			return data, nil
		}
		var ae *api.Error
		if !errors.As(err, &ae) || ae.Code != api.CodeNoSnapshot {
			last = api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "snapshot %.12s is not here, and %s can't be asked: %v", id, n.ID, err)
		}
	}
	return nil, last
}

// fetchPages asks for each page those first that the gateway gave it to, so that the pages of a large
// snapshot come from all targets; then those that it gave the root to, which have all pages.
func (s *Streams) fetchPages(ctx context.Context, id string, pages []sampler.PageID, take func(*sampler.Page)) error {
	missing := make(map[sampler.PageID]bool, len(pages))
	for _, p := range pages {
		missing[p] = true
	}
	whole := s.peersFor(id, api.SnapshotHolders)
	var last error
	for try := 0; len(missing) > 0 && try < api.SnapshotHolders+len(whole); try++ {
		from := make(map[string][]sampler.PageID)
		nodes := make(map[string]api.Node)
		for p := range missing {
			candidates := append(s.peersFor(p.String(), api.SnapshotHolders), whole...)
			if try < len(candidates) {
				n := candidates[try]
				from[n.ID], nodes[n.ID] = append(from[n.ID], p), n
			}
		}
		got, err := s.askAll(ctx, nodes, from, take)
		for _, p := range got {
			delete(missing, p)
		}
		last = errors.Join(last, err)
	}
	return last
}

// askAll asks many targets for pages and gives take those that they have.
func (s *Streams) askAll(ctx context.Context, nodes map[string]api.Node, from map[string][]sampler.PageID, take func(*sampler.Page)) ([]sampler.PageID, error) {
	var got []sampler.PageID
	pages := make(chan *sampler.Page)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for p := range pages {
			got = append(got, p.ID())
			take(p)
		}
	}()
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for id, ids := range from {
		group.Go(func() error {
			for some := range slices.Chunk(ids, api.MaxPages) {
				if err := s.askForPages(ctx, nodes[id], some, pages); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := group.Wait()
	close(pages)
	<-done
	return got, err
}

// askForPages sends on those pages that a target has of the ids.
func (s *Streams) askForPages(ctx context.Context, n api.Node, ids []sampler.PageID, pages chan<- *sampler.Page) error {
	body, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	pack, err := s.ask(ctx, n, http.MethodPost, "/v1/pages", body, maxPages)
	if err != nil {
		return err
	}
	for len(pack) > 0 {
		var part []byte
		if part, pack, err = sampler.CutPart(pack); err != nil {
			return err
		}
		p, err := sampler.ParsePage(bytes.Clone(part))
		if err != nil {
			return err
		}
		pages <- p
	}
	return nil
}

// ask makes a request to another target and returns its answer whole, of at most so many bytes.
func (s *Streams) ask(ctx context.Context, n api.Node, method, path string, body []byte, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+n.Addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := s.target.peers.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, api.ErrorOf(resp)
	}
	return io.ReadAll(io.LimitReader(resp.Body, most))
}

// askTimeout is for one answer of a peer: some megabytes at most.
const askTimeout = 10 * time.Second
