package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

// askedForKept bounds the targets that are asked for a snapshot: those first that were given it.
const askedForKept = 32

// keptSnapshot asks the targets for a snapshot; nil where none of those that answer has it.
func (g *Gateway) keptSnapshot(ctx context.Context, id string) (*sampler.Snapshot, error) {
	for _, n := range g.members.View().Placer.Rank(id, askedForKept) {
		pack, err := g.askBytes(ctx, n, http.MethodGet, "/v1/snapshots/"+url.PathEscape(id), nil)
		var answer *api.Error
		switch {
		case err == nil:
			return g.unpack(ctx, n, pack)
		case errors.As(err, &answer) && (answer.Code == api.CodeNoSnapshot || answer.Code == api.CodeUnavailable):
		default:
			return nil, err
		}
	}
	return nil, nil
}

// unpack makes a snapshot of a target's answer: a large one is its root, and its pages are to be asked for.
func (g *Gateway) unpack(ctx context.Context, n api.Node, pack []byte) (*sampler.Snapshot, error) {
	part, rest, err := sampler.CutPart(pack)
	if err != nil {
		return nil, err
	}
	root, err := sampler.ParseRoot(part)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 || len(root.Pages()) == 0 {
		return sampler.UnmarshalSnapshot(pack)
	}
	have := make(map[sampler.PageID]*sampler.Page, len(root.Pages()))
	for some := range slices.Chunk(root.Pages(), api.MaxPages) {
		if err := g.getPages(ctx, n, some, have); err != nil {
			return nil, err
		}
	}
	pages := make([]*sampler.Page, len(root.Pages()))
	for i, p := range root.Pages() {
		if pages[i] = have[p.ID]; pages[i] == nil {
			return nil, api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "%s lost a page of snapshot %.12s meanwhile; ask again", n.ID, root.ID())
		}
	}
	return sampler.Assemble(root, pages)
}

// getPages asks a target for pages.
func (g *Gateway) getPages(ctx context.Context, n api.Node, infos []sampler.PageInfo, have map[sampler.PageID]*sampler.Page) error {
	ids := make([]sampler.PageID, len(infos))
	for i := range infos {
		ids[i] = infos[i].ID
	}
	body, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	pack, err := g.askBytes(ctx, n, http.MethodPost, "/v1/pages", body)
	for len(pack) > 0 && err == nil {
		var part []byte
		var p *sampler.Page
		if part, pack, err = sampler.CutPart(pack); err == nil {
			if p, err = sampler.ParsePage(part); err == nil {
				have[p.ID()] = p
			}
		}
	}
	return err
}
