package gateway

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/sampler"
)

const (
	maxSources    = 10_000
	pushTimeout   = 30 * time.Second
	maxShownNames = 80
)

// ETLLookup says whether a transformation is deployed, and how it works.
type ETLLookup func(ctx context.Context, name string) (api.ETL, error)

// ServeStreams adds POST /v1/streams: it turns a description into a snapshot, gives that to every target,
// and answers with its id and counts; and POST /v1/streams/explain, which says what a stream yields. Call it
// before Serve.
func (g *Gateway) ServeStreams(etls ETLLookup) {
	g.Handle("POST /v1/streams/explain", g.postExplain)
	g.Handle("POST /v1/streams", func(w http.ResponseWriter, r *http.Request) error {
		req := api.StreamRequest{WorldSize: 1} // where the description names none; 0 is refused
		if err := ReadJSON(w, r, maxDocument, &req); err != nil {
			return err
		}
		info, err := g.openStream(r.Context(), &req, etls)
		if err != nil {
			return err
		}
		return WriteJSON(w, http.StatusOK, info)
	})
}

func (g *Gateway) openStream(ctx context.Context, req *api.StreamRequest, etls ETLLookup) (*api.StreamInfo, error) {
	if err := checkStream(req); err != nil {
		return nil, err
	}
	versions, err := checkETLs(ctx, req, etls)
	if err != nil {
		return nil, err
	}
	info, snap, err := g.resolve(ctx, req)
	if err != nil {
		return nil, err
	}
	view := sampler.View{
		Samples: info.Samples, BatchSize: req.BatchSize, World: req.WorldSize, Rank: req.Rank, Workers: 1, DropLast: req.DropLast,
	}
	if err := view.Validate(); err != nil {
		return nil, badStream("%v", err)
	}
	if err := g.pushSnapshot(ctx, snap); err != nil {
		return nil, err
	}
	info.ETLVersion = versions[req.ETL]
	if info.Mixture != nil {
		for i := range info.Mixture.Parts {
			info.Mixture.Parts[i].ETLVersion = versions[info.Mixture.Parts[i].ETL]
		}
	}
	info.Batches, info.Map = view.Batches(), *g.members.View().Map()
	return info, nil
}

// checkETLs looks up the transformations that the stream names, and returns their versions.
func checkETLs(ctx context.Context, req *api.StreamRequest, etls ETLLookup) (map[string]int64, error) {
	names := map[string]bool{req.ETL: true}
	if req.Mixture != nil {
		for i := range req.Mixture.Sources {
			names[req.Mixture.Sources[i].ETL] = true
		}
	}
	delete(names, "")
	versions := make(map[string]int64, len(names))
	for _, name := range slices.Sorted(maps.Keys(names)) {
		def, err := etls(ctx, name)
		if err != nil {
			return nil, err
		}
		if def.Level != api.LevelSample {
			return nil, badStream("etl %q works on level %q; a stream needs one of level %q", name, def.Level, api.LevelSample)
		}
		versions[name] = def.Version
	}
	return versions, nil
}

func badStream(format string, args ...any) *api.Error {
	return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, format, args...)
}

// checkStream refuses what no cluster could serve.
func checkStream(req *api.StreamRequest) error {
	view := sampler.View{BatchSize: req.BatchSize, World: req.WorldSize, Rank: req.Rank, Workers: 1}
	if err := view.Validate(); err != nil { // before anything is listed
		return badStream("%v", err)
	}
	if req.Mixture != nil {
		return checkMixture(req)
	}
	if _, err := sampler.ParseMode(req.Shuffle); err != nil {
		return badStream("%v", err)
	}
	switch {
	case len(req.Sources) == 0:
		return badStream("a stream needs at least one source, such as ss://bucket/train-*.tar")
	case len(req.Sources) > maxSources:
		return badStream("%d sources, at most %d; use braces or globs", len(req.Sources), maxSources)
	}
	return nil
}

// resolve makes the snapshot of the stream's sources.
func (g *Gateway) resolve(ctx context.Context, req *api.StreamRequest) (*api.StreamInfo, *sampler.Snapshot, error) {
	if req.Mixture != nil {
		m, err := g.resolveMixture(ctx, req)
		if err != nil {
			return nil, nil, err
		}
		return m.info, m.snap, nil
	}
	info := &api.StreamInfo{}
	shards, err := g.list(ctx, req.Sources, info)
	if err != nil {
		return nil, nil, err
	}
	snap, err := sampler.NewSnapshot(shards)
	if err != nil {
		return nil, nil, badStream("%v", err)
	}
	if snap.Samples() == 0 {
		return nil, nil, api.Errorf(http.StatusNotFound, api.CodeNoMatch, "the %d shards of the sources hold no samples", len(shards))
	}
	info.Snapshot, info.Samples, info.Shards = snap.ID(), snap.Samples(), int64(len(shards))
	return info, snap, nil
}

// list finds the shards of the sources, in the order given and by name within each, and adds their bytes
// to the stream's.
func (g *Gateway) list(ctx context.Context, addresses []string, info *api.StreamInfo) ([]sampler.Shard, error) {
	var shards []sampler.Shard
	seen := map[string]bool{}
	for _, address := range addresses {
		pattern, err := api.ParsePattern(address)
		if err != nil {
			return nil, err
		}
		objects, err := g.matches(ctx, pattern)
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			name := o.Bucket + "/" + o.Name
			if seen[name] {
				return nil, badStream("shard ss://%s is named by two sources; its samples would come twice an epoch", name)
			}
			seen[name] = true
			shards = append(shards, sampler.Shard{Name: name, Version: o.Version, Samples: o.Samples})
			info.Bytes += o.Size
			info.MaxSample = max(info.MaxSample, o.MaxSample)
		}
	}
	return shards, nil
}

// matches lists the shards of one source.
func (g *Gateway) matches(ctx context.Context, p *api.Pattern) ([]api.Object, error) {
	var found []api.Object
	others := 0
	after := ""
	for {
		page, err := g.ListObjects(ctx, p.Bucket, api.ListOptions{Prefix: p.Prefix, StartAfter: after, Limit: maxPage})
		if err != nil {
			return nil, err
		}
		for _, o := range page.Objects {
			if !p.Match(o.Name) {
				continue
			}
			shard, err := isShard(p, &o)
			if err != nil {
				return nil, err
			}
			if !shard {
				others++
				continue
			}
			o.Bucket = p.Bucket
			found = append(found, o)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if name, missing := p.Missing(); missing {
		return nil, api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s: there is no object %s; put it, or correct the source", p.Address, api.Address(p.Bucket, clipName(name)))
	}
	if len(found) == 0 {
		return nil, api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s matches no tar shard (%d other objects match); `shardstream ls %s` shows what is there", p.Address, others, api.Address(p.Bucket, ""))
	}
	return found, nil
}

// isShard tells shards from other objects, which patterns pass over; a tar without an index, or another
// object that was named outright, is an error rather than a silently shorter epoch.
func isShard(p *api.Pattern, o *api.Object) (bool, error) {
	if o.Archive != string(archive.None) {
		return true, nil
	}
	if p.Exact(o.Name) || archive.FormatOf(o.Name) != archive.None {
		return false, badStream("source %.200s: %s is not an indexed tar (it was stored as opaque bytes, or is something else); put it again as a .tar",
			p.Address, api.Address(p.Bucket, o.Name))
	}
	return false, nil
}

func clipName(name string) string { return name[:min(len(name), maxShownNames)] }

// pushSnapshot gives the snapshot to every target that is up: each needs it to compute its part of the
// plan, and being named by its content it can be given twice. A target that is away fetches it from
// the others when it is back.
func (g *Gateway) pushSnapshot(ctx context.Context, snap *sampler.Snapshot) error {
	data, err := snap.MarshalBinary()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	targets := slices.DeleteFunc(g.members.View().Map().Targets(), func(n api.Node) bool { return n.State == api.StateDown })
	if len(targets) == 0 {
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "no target is up")
	}
	errs := make([]error, len(targets))
	group := errgroup.Group{}
	for i, n := range targets {
		group.Go(func() error {
			errs[i] = g.putSnapshot(ctx, n, snap.ID(), data)
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs: one copy is enough to go on
	for _, err := range errs {
		if err == nil {
			return nil
		}
	}
	return errs[0]
}

func (g *Gateway) putSnapshot(ctx context.Context, n api.Node, id string, data []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+n.Addr+"/v1/snapshots/"+id, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set(api.HeaderRequestID, telemetry.RequestIDOf(ctx))
	resp, err := g.peers.Do(req)
	if err != nil {
		return silent(n, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= 300 {
		return api.ErrorOf(resp)
	}
	return nil
}
