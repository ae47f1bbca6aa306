package stream

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/sampler"
)

// orderOf makes the plan of a request's epoch.
func orderOf(snap *sampler.Snapshot, req *wire.ReadRequest) (sampler.Plan, error) {
	if req.Mixture != nil {
		return mixtureOf(snap, req)
	}
	mode, err := sampler.ParseMode(req.Shuffle)
	if err != nil {
		return nil, err
	}
	order, err := sampler.NewOrder(snap, sampler.Shuffle{Mode: mode, Seed: req.Seed, Slices: req.Slices, Window: req.Window}, req.Epoch)
	if err != nil {
		return nil, err // not a Plan that is nil inside
	}
	return order, nil
}

func mixtureOf(snap *sampler.Snapshot, req *wire.ReadRequest) (sampler.Plan, error) {
	interleave, err := sampler.ParseInterleave(req.Mixture.Interleave)
	if err != nil {
		return nil, err
	}
	parts := make([]sampler.Part, len(req.Mixture.Parts))
	for i, p := range req.Mixture.Parts {
		mode, err := sampler.ParseMode(p.Shuffle)
		if err != nil {
			return nil, fmt.Errorf("part %d: %w", i, err)
		}
		parts[i] = sampler.Part{
			Shards: int(p.Shards), Draws: p.Draws,
			Shuffle: sampler.Shuffle{
				Mode: mode, Seed: sampler.PartSeed(req.Seed, i), Slices: cmp.Or(p.Slices, req.Slices), Window: cmp.Or(p.Window, req.Window),
			},
		}
	}
	blend := sampler.Blend{Interleave: interleave, Unit: req.Mixture.Unit, Seed: req.Seed}
	mixture, err := sampler.NewMixture(snap, parts, blend, req.Epoch)
	if err != nil {
		return nil, err
	}
	return mixture, nil
}

// transformation is what the samples of one or several parts go through.
type transformation struct {
	number int
	steps  []step // none: they are sent as they lie
}

// step is one transformation of a chain.
type step struct {
	etl.Step
	runtime etl.Runtime
}

// transformations looks up those of the order's parts, each once.
func (s *Server) transformations(req *wire.ReadRequest) ([]*transformation, error) {
	parts := []wire.Part{{ETL: req.ETL, ETLArgs: req.ETLArgs}}
	if req.Mixture != nil {
		parts = req.Mixture.Parts
	}
	known := map[string]*transformation{"": {}}
	byPart := make([]*transformation, len(parts))
	for i, p := range parts {
		key := p.ETL + string(p.ETLArgs)
		if known[key] == nil {
			x, err := s.transformation(p.ETL, p.ETLArgs)
			if err != nil {
				return nil, err
			}
			x.number, known[key] = len(known), x
		}
		byPart[i] = known[key]
	}
	return byPart, nil
}

func (s *Server) transformation(names string, args json.RawMessage) (*transformation, error) {
	chain, err := etl.ParseChain(names, args)
	if err != nil {
		return nil, api.Errorf(400, api.CodeBadRequest, "%v", err)
	}
	x := &transformation{steps: make([]step, len(chain))}
	for i := range chain {
		x.steps[i].Step = chain[i]
		if x.steps[i].runtime, err = s.runtime(chain[i].Name); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// runtime looks a transformation of samples up.
func (s *Server) runtime(name string) (etl.Runtime, error) {
	x, err := s.ETLs.Runtime(name)
	if err != nil {
		return nil, err
	}
	if def := x.Definition(); def.Level == api.LevelObject && len(def.Fields) == 0 {
		return nil, api.Errorf(400, api.CodeBadRequest, "etl %q works on level %q; a stream needs one of level %q or %q, or one whose definition names the fields that it is applied to", name, def.Level, api.LevelSample, api.LevelBatch)
	}
	return x, nil
}

// rawFirst sorts samples by what they go through, and returns how many are sent as they lie.
func (r *Reader) rawFirst(samples []found) int {
	if len(r.etls) > 1 {
		slices.SortStableFunc(samples, func(a, b found) int { return cmp.Compare(r.through(a).number, r.through(b).number) })
	}
	raw := 0
	for raw < len(samples) && len(r.through(samples[raw]).steps) == 0 {
		raw++
	}
	return raw
}

func (r *Reader) through(f found) *transformation { return r.etls[f.draw.Part] }
