package gateway

import (
	"context"
	"encoding/json"
	"hash/maphash"
	"maps"
	"net/http"
	"slices"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/sampler"
)

const (
	maxSources    = 10_000
	maxShownNames = 80
)

// ETLLookup says whether a transformation is deployed, and how it works.
type ETLLookup func(ctx context.Context, name string) (api.ETL, error)

// ServeStreams adds POST /v1/streams: it turns a description into a snapshot, gives that to the targets,
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
	shared, err := g.opens.do(ctx, sameOpen(req), func(ctx context.Context) (*api.StreamInfo, error) {
		info, snap, err := g.resolve(ctx, req)
		if err != nil {
			return nil, err
		}
		return info, g.distribute(ctx, snap)
	})
	if err != nil {
		return nil, err
	}
	view := sampler.View{
		Samples: shared.Samples, BatchSize: req.BatchSize, World: req.WorldSize, Rank: req.Rank, Workers: 1, DropLast: req.DropLast,
	}
	if err := view.Validate(); err != nil {
		return nil, badStream("%v", err)
	}
	info := *shared // others have the same
	info.ETLVersion = versions[req.ETL]
	if info.Mixture != nil {
		mixture := *info.Mixture
		mixture.Parts = slices.Clone(mixture.Parts)
		for i := range mixture.Parts {
			mixture.Parts[i].ETLVersion = versions[mixture.Parts[i].ETL]
		}
		info.Mixture = &mixture
	}
	info.Batches, info.Map = view.Batches(), *g.members.View().Map()
	return &info, nil
}

// sameOpen tells descriptions that come to the same snapshot and plan: those of a job's ranks do.
func sameOpen(req *api.StreamRequest) string {
	same := *req
	same.Rank = 0
	key, err := json.Marshal(&same)
	if err != nil {
		return "" // it came as JSON
	}
	return string(key)
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
	var shards sampler.Builder
	if err := g.list(ctx, req.Sources, info, &shards); err != nil {
		return nil, nil, err
	}
	snap, err := shards.Snapshot()
	if err != nil {
		return nil, nil, badStream("%v", err)
	}
	if snap.Samples() == 0 {
		return nil, nil, api.Errorf(http.StatusNotFound, api.CodeNoMatch, "the %d shards of the sources hold no samples", snap.NumShards())
	}
	info.Snapshot, info.Samples, info.Shards = snap.ID(), snap.Samples(), int64(snap.NumShards())
	return info, snap, nil
}

// list adds the shards of the sources, in the order given and by name within each, and their bytes to the
// stream's.
func (g *Gateway) list(ctx context.Context, addresses []string, info *api.StreamInfo, shards *sampler.Builder) error {
	var seen repeats
	for _, address := range addresses {
		pattern, err := api.ParsePattern(address)
		if err != nil {
			return err
		}
		err = g.matches(ctx, pattern, func(o *api.Object) error {
			if len(addresses) > 1 && seen.before(pattern.Bucket, o.Name) {
				return badStream("shard %s is named by two sources; its samples would come twice an epoch", api.Address(pattern.Bucket, o.Name))
			}
			info.Bytes += o.Size
			info.MaxSample = max(info.MaxSample, o.MaxSample)
			if err := shards.Add(sampler.Shard{Name: pattern.Bucket + "/" + o.Name, Version: o.Version, Samples: o.Samples}); err != nil {
				return badStream("%v", err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		seen.done(pattern)
	}
	return nil
}

// repeats finds objects that two sources name. It remembers hashes only, as there may be many millions of
// names; where one comes again, the sources before say whether it was the same.
type repeats struct {
	seed     maphash.Seed
	hashes   map[uint64]struct{}
	patterns []*api.Pattern // of the sources before
}

func (r *repeats) before(bucket, name string) bool {
	if r.hashes == nil {
		r.seed, r.hashes = maphash.MakeSeed(), make(map[uint64]struct{})
	}
	h := maphash.String(r.seed, bucket+"/"+name)
	if _, ok := r.hashes[h]; !ok {
		r.hashes[h] = struct{}{}
		return false
	}
	return slices.ContainsFunc(r.patterns, func(p *api.Pattern) bool { return p.Bucket == bucket && p.Match(name) })
}

func (r *repeats) done(p *api.Pattern) { r.patterns = append(r.patterns, p) }

// matches visits the shards of one source.
func (g *Gateway) matches(ctx context.Context, p *api.Pattern, visit func(*api.Object) error) error {
	found, others := 0, 0
	err := g.walk(ctx, p.Bucket, p.Prefix, func(o *api.Object) error {
		if !p.Match(o.Name) {
			return nil
		}
		shard, err := isShard(p, o)
		if err != nil {
			return err
		}
		if !shard {
			others++
			return nil
		}
		found++
		return visit(o)
	})
	if err != nil {
		return err
	}
	if name, missing := p.Missing(); missing {
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s: there is no object %s; put it, or correct the source", p.Address, api.Address(p.Bucket, clipName(name)))
	}
	if found == 0 {
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s matches no tar shard (%d other objects match); `shardstream ls %s` shows what is there", p.Address, others, api.Address(p.Bucket, ""))
	}
	return nil
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
