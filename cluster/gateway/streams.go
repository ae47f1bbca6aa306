package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/decode"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/sampler"
)

const maxShownNames = 80

// ETLLookup says whether a transformation is deployed, and how it works.
type ETLLookup func(ctx context.Context, name string) (api.ETL, error)

// ServeStreams adds POST /v1/streams: it turns a description into a snapshot, gives that to the targets,
// and answers with its id and counts; and POST /v1/streams/explain, which says what a stream yields. Call it
// before Serve.
func (g *Gateway) ServeStreams(etls ETLLookup) {
	g.Handle("POST /v1/streams/explain", g.postExplain)
	g.Handle("POST /v1/streams", func(w http.ResponseWriter, r *http.Request) error {
		req := api.StreamRequest{WorldSize: 1} // where the description names none; 0 is refused
		if err := ReadJSON(w, r, maxStream, &req); err != nil {
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
	shared, err := g.opens.do(ctx, sameOpen(req), func(ctx context.Context, p *progress) (*api.StreamInfo, error) {
		info, snap, err := g.resolve(ctx, req, p)
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
	same.Rank, same.Epoch, same.Ahead = 0, 0, false // hints
	key, err := json.Marshal(&same)
	if err != nil {
		return "" // it came as JSON
	}
	return string(key)
}

// checkETLs looks up the transformations that the stream names, and returns the versions: of each chain the
// latest in it, which rises when any of its transformations is deployed anew.
func checkETLs(ctx context.Context, req *api.StreamRequest, etls ETLLookup) (map[string]int64, error) {
	versions := map[string]int64{}
	check := func(names string, args json.RawMessage) error {
		steps, err := etl.ParseChain(names, args)
		if err != nil {
			return badStream("%v", err)
		}
		for _, step := range steps {
			definition, err := etls(ctx, step.Name)
			if err != nil {
				return err
			}
			if definition.Level == api.LevelObject && len(definition.Fields) == 0 {
				return badStream("etl %q works on level %q; a stream needs one of level %q or %q, or one whose definition names the fields that it is applied to", step.Name, definition.Level, api.LevelSample, api.LevelBatch)
			}
			versions[names] = max(versions[names], definition.Version)
		}
		return nil
	}
	if err := check(req.ETL, req.ETLArgs); err != nil {
		return nil, err
	}
	if req.Mixture == nil {
		return versions, nil
	}
	for i := range req.Mixture.Sources {
		if err := check(req.Mixture.Sources[i].ETL, req.Mixture.Sources[i].ETLArgs); err != nil {
			return nil, err
		}
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
	if err := api.CheckSamples(req.Samples); err != nil {
		return err
	}
	if err := checkDecode(req); err != nil {
		return err
	}
	if req.Mixture != nil {
		return checkMixture(req)
	}
	if _, err := shuffleOf(req.Shuffle, req.Slices, req.Window); err != nil {
		return badStream("%v", err)
	}
	switch {
	case len(req.Sources) == 0:
		return badStream("a stream needs at least one source, such as ss://bucket/train-*.tar")
	case len(req.Sources) > maxSources:
		return badStream("%d sources, at most %d; use braces, globs, or put the list as a manifest and name it as @ss://bucket/list", len(req.Sources), maxSources)
	}
	return nil
}

// checkDecode refuses decoders that there are not, and fields that would not be read.
func checkDecode(req *api.StreamRequest) error {
	plan, err := decode.Parse(req.Decode)
	if err != nil {
		return badStream("%v", err)
	}
	for _, field := range plan.Fields() {
		if len(req.Fields) > 0 && !slices.Contains(req.Fields, field) {
			return badStream("decode names the field %.80q, which is not among the fields %.200q", field, req.Fields)
		}
	}
	return nil
}

// resolve makes the snapshot of the stream's sources.
func (g *Gateway) resolve(ctx context.Context, req *api.StreamRequest, p *progress) (*api.StreamInfo, *sampler.Snapshot, error) {
	if req.Mixture != nil {
		m, err := g.resolveMixture(ctx, req, p)
		if err != nil {
			return nil, nil, err
		}
		return m.info, m.snap, nil
	}
	info := &api.StreamInfo{}
	var shards sampler.Builder
	cold, err := g.list(ctx, req.Sources, &list{
		plain: req.Samples == api.SamplesObjects, shards: &shards, info: info, progress: p, ahead: req.Ahead, first: firstUseOf(req),
	})
	if err != nil {
		return nil, nil, err
	}
	snap, err := shards.Snapshot()
	if err != nil {
		return nil, nil, badStream("%v", err)
	}
	if snap.Samples() == 0 {
		return nil, nil, api.Errorf(http.StatusNotFound, api.CodeNoMatch, "the %d shards of the sources hold no samples: a member is a field of one if its name has an extension, such as 0001.jpg", snap.NumShards())
	}
	info.Snapshot, info.Samples, info.Shards = snap.ID(), snap.Samples(), int64(snap.NumShards())
	info.Shuffle, info.Slices, info.Window = req.Shuffle, req.Slices, req.Window
	if req.Shuffle == "" {
		info.Shuffle, info.Slices, info.Window = cold.shuffle(info.Bytes, info.Shards)
	}
	return info, snap, nil
}
