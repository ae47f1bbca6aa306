package target

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// entries is a page of the objects of a part.
type entries struct {
	entries []entry
	last    string // name that the next page begins after
	more    bool
}

type entry struct {
	name     string
	size     int64
	archived bool
}

// page lists objects of the source that this target is the primary of. As long as all data is known to be where the map
// puts it, they are here; else a gateway says what there is. Either way it is by the ring that the part is of: under
// another, the coordinator begins anew.
func (p *part) page(ctx context.Context, after string) (entries, error) {
	t, pattern := p.jobs.target, p.transform.Pattern
	view := t.members.View()
	b, err := p.source(ctx, view)
	if err != nil {
		return entries{}, err
	}
	list := t.pageHere
	if !view.Placer.Layout().Settled() || len(b.Was) > 0 || b.Backend != nil {
		list = t.pageOfAll
	}
	page, err := list(ctx, view, pattern.Bucket, pattern.Prefix, after)
	if err != nil {
		return page, err
	}
	kept := page.entries[:0]
	for _, e := range page.entries {
		if primary, ok := view.Placer.Primary(pattern.Bucket, e.name, b.Copies()); ok && primary.ID == t.id && pattern.Match(e.name) {
			kept = append(kept, e)
		}
	}
	page.entries = kept
	return page, nil
}

// source is the bucket of the part's source, under a view that the part may go by.
func (p *part) source(ctx context.Context, view *membership.View) (membership.Bucket, error) {
	b, ok := view.Bucket(p.transform.Pattern.Bucket)
	if !ok {
		var err error
		if b, err = p.jobs.target.members.FindBucket(ctx, p.transform.Pattern.Bucket); err != nil {
			return b, err
		}
	}
	if view.Placer.Ring(b.Copies()) != p.ring {
		return b, unavailable("the set of targets has changed; the job's coordinator will say where to go on")
	}
	return b, nil
}

// pageHere lists what lies here.
func (t *Target) pageHere(_ context.Context, _ *membership.View, bucket, prefix, after string) (page entries, err error) {
	infos, more, err := t.store.List(bucket, prefix, after, partPage)
	if err != nil {
		return page, err
	}
	page.more, page.last = more, after
	for i := range infos {
		page.entries = append(page.entries, entry{infos[i].Name, infos[i].Size, infos[i].Archive != ""})
		page.last = infos[i].Name
	}
	return page, nil
}

// pageOfAll asks a gateway what there is in the cluster.
func (t *Target) pageOfAll(ctx context.Context, view *membership.View, bucket, prefix, after string) (page entries, err error) {
	query := url.Values{"prefix": {prefix}, "start_after": {after}, "limit": {strconv.Itoa(partPage)}}
	path := "/v1/buckets/" + url.PathEscape(bucket) + "/objects?" + query.Encode()
	err = unavailable("no gateway is up")
	for _, n := range view.Map().Nodes {
		if n.Role != api.RoleGateway || n.State != api.StateOK {
			continue
		}
		var list api.ObjectList
		if err = t.document(ctx, n, path, &list); err != nil {
			continue
		}
		page.more, page.last = list.Next != "", list.Next
		for i := range list.Objects {
			o := &list.Objects[i]
			archived := o.Archive != "" || o.Version == 0 && archive.FormatOf(o.Name) != archive.None // not described yet
			page.entries = append(page.entries, entry{o.Name, o.Size, archived})
		}
		return page, nil
	}
	return page, err
}

// document asks another node for a JSON document.
func (t *Target) document(ctx context.Context, node api.Node, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+node.Addr+path, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask %s: %w", node.ID, err)
	}
	request.Header.Set(api.HeaderRequestID, telemetry.RequestIDOf(ctx))
	response, err := t.peers.Do(request)
	if err != nil {
		return unavailable("%s (%s) does not answer: %v", node.ID, node.Addr, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= 300 {
		return api.ErrorOf(response)
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return unavailable("%s (%s) breaks off: %v", node.ID, node.Addr, err)
	}
	return nil
}

// openNewest opens the newest version of an object that this target is the primary of, and brings it here first where
// others have it. store.ErrNotFound where there is none.
func (t *Target) openNewest(ctx context.Context, bucket, key string) (*store.Object, error) {
	p, err := t.place(ctx, bucket, key)
	switch {
	case err != nil:
		return nil, err
	case p.primary.ID != t.id:
		return nil, unavailable("%s is %s's by now", api.Address(bucket, key), p.primary.ID)
	}
	if err := t.leased(&p.bucket.Bucket); err != nil {
		return nil, err
	}
	if p.bucket.Backend != nil {
		object, _, err := t.cache.Whole(ctx, &p.bucket.Bucket, key)
		return object, err
	}
	if !t.isCertain(&p) {
		if err := t.bring(ctx, p); err != nil {
			return nil, err
		}
	}
	return t.open(ctx, p)
}

// bring gets the newest version of an object here.
func (t *Target) bring(ctx context.Context, p placed) error {
	unlock, err := t.locks.lock(ctx, p.bucket.Name, p.key)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := t.newestLocked(ctx, p)
	if err != nil || f.here {
		return err
	}
	r := &round{t: t, p: p, plan: p.plan(), client: t.copies.With(p.version)}
	return r.pull(ctx, f.newest, f.holders)
}
