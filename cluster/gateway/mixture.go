package gateway

import (
	"context"
	"math"
	"math/big"
	"net/http"
	"slices"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

// checkMixture refuses what no data could make a mixture of, before anything is listed.
func checkMixture(req *api.StreamRequest) error {
	m := req.Mixture
	if len(req.Sources) > 0 || req.Shuffle != "" || req.Slices != 0 || req.Window != 0 || req.ETL != "" || len(req.ETLArgs) > 0 && string(req.ETLArgs) != "null" {
		return badStream("a mixture takes the place of sources, shuffle and etl: give these to its sources")
	}
	if len(m.Sources) == 0 || len(m.Sources) > sampler.MaxParts {
		return badStream("a mixture has 1 to %d sources, not %d", sampler.MaxParts, len(m.Sources))
	}
	if m.Samples < 0 || m.Samples > sampler.MaxSamples {
		return badStream("samples of the epoch must be 1 to %d, not %d", int64(sampler.MaxSamples), m.Samples)
	}
	addresses, weighted, counted := 0, 0, 0
	for i := range m.Sources {
		s := &m.Sources[i]
		if err := checkMixtureSource(i, s); err != nil {
			return err
		}
		addresses += len(s.Sources)
		switch {
		case s.Weight != nil:
			weighted++
		case s.Repeat != nil || s.Samples != nil:
			counted++
		}
	}
	switch {
	case addresses > maxSources:
		return badStream("%d addresses in a mixture, at most %d; use braces or globs", addresses, maxSources)
	case weighted > 0 && weighted < len(m.Sources):
		return badStream("%d of the mixture's %d sources have a weight: give one to each, or to none (then repeat and samples say how much comes of each)", weighted, len(m.Sources))
	case counted > 0 && m.Samples > 0:
		return badStream("repeat and samples of the sources add up to the epoch's samples: leave samples of the mixture out, or give weights")
	}
	_, _, err := mixtureParts(req, make([]int64, len(m.Sources)))
	return err
}

func checkMixtureSource(i int, s *api.MixtureSource) error {
	if len(s.Sources) == 0 {
		return badStream("source %d of the mixture has no address, such as ss://bucket/train-*.tar", i)
	}
	given := 0
	if s.Weight != nil {
		given++
		if !(*s.Weight >= 0) || math.IsInf(*s.Weight, 0) {
			return badStream("weight of source %d (%.100s) must be 0 or more, not %v", i, s.Sources[0], *s.Weight)
		}
	}
	if s.Repeat != nil {
		given++
		if !(*s.Repeat >= 0) || *s.Repeat > sampler.MaxSamples {
			return badStream("repeat of source %d (%.100s) must be 0 to %d, not %v", i, s.Sources[0], int64(sampler.MaxSamples), *s.Repeat)
		}
	}
	if s.Samples != nil {
		given++
		if *s.Samples < 0 || *s.Samples > sampler.MaxSamples {
			return badStream("samples of source %d (%.100s) must be 0 to %d, not %d", i, s.Sources[0], int64(sampler.MaxSamples), *s.Samples)
		}
	}
	if given > 1 {
		return badStream("source %d (%.100s) has more than one of weight, repeat and samples: which is it?", i, s.Sources[0])
	}
	return nil
}

// mixtureParts is the plan's description of a mixture whose parts give these many samples an epoch; the
// error names sources as users count them.
func mixtureParts(req *api.StreamRequest, draws []int64) ([]sampler.Part, sampler.Blend, error) {
	m := req.Mixture
	blend := sampler.Blend{Seed: req.Seed}
	if m.Interleave != "" {
		var err error
		if blend.Interleave, err = sampler.ParseInterleave(m.Interleave); err != nil {
			return nil, blend, badStream("%v", err)
		}
	}
	if blend.Interleave == sampler.PerSource {
		blend.Unit = int64(req.BatchSize)
	}
	parts := make([]sampler.Part, len(m.Sources))
	for i := range m.Sources {
		s := &m.Sources[i]
		parts[i].Draws = draws[i]
		var err error
		if parts[i].Shuffle, err = shuffleOf(s.Shuffle, s.Slices, s.Window); err != nil {
			return nil, blend, badStream("source %d (%.100s): %v", i, s.Sources[0], err)
		}
		parts[i].Shuffle.Seed = sampler.PartSeed(req.Seed, i)
		if blend.Interleave == sampler.Random && parts[i].Shuffle.Mode != sampler.Global {
			return nil, blend, badStream(`interleave "random" permutes all samples, which undoes shuffle %q of source %d (%.100s): take interleave "stratified", or shuffle "global" there`, s.Shuffle, i, s.Sources[0])
		}
	}
	if err := blend.Validate(parts); err != nil {
		return nil, blend, badStream("%v", err)
	}
	return parts, blend, nil
}

// mixture is what a description came to.
type mixture struct {
	info  *api.StreamInfo
	snap  *sampler.Snapshot
	parts []sampler.Part
	blend sampler.Blend
}

// drawsAll says that every sample of every source comes in an epoch, before anything is known of them.
func drawsAll(m *api.Mixture) bool {
	return m.Samples == 0 && !slices.ContainsFunc(m.Sources, func(s api.MixtureSource) bool {
		return s.Weight != nil || s.Samples != nil || s.Repeat != nil && *s.Repeat < 1
	})
}

// resolveMixture lists the shards of all sources, one source after the other, and works out how many
// samples an epoch takes from each.
func (g *Gateway) resolveMixture(ctx context.Context, req *api.StreamRequest, p *progress) (*mixture, error) {
	info := &api.StreamInfo{}
	var shards sampler.Builder
	counts, sizes := make([]int, len(req.Mixture.Sources)), make([]int64, len(req.Mixture.Sources))
	chosen := *req.Mixture // with the shuffles that were left to us
	chosen.Sources = slices.Clone(chosen.Sources)
	for i := range chosen.Sources {
		s := &chosen.Sources[i]
		before, samples, bytes := shards.NumShards(), shards.Samples(), info.Bytes
		cold, err := g.list(ctx, s.Sources, &list{
			plain: req.Samples == api.SamplesObjects, shards: &shards, info: info, progress: p, ahead: req.Ahead && drawsAll(req.Mixture),
		})
		if err != nil {
			return nil, err
		}
		if s.Shuffle == "" && (chosen.Interleave == "" || chosen.Interleave == sampler.Random.String()) {
			s.Shuffle = sampler.Global.String() // all samples are permuted
		} else if s.Shuffle == "" {
			s.Shuffle, s.Slices, s.Window = cold.shuffle(info.Bytes-bytes, int64(shards.NumShards()-before))
		}
		counts[i], sizes[i] = shards.NumShards()-before, shards.Samples()-samples
		if sizes[i] == 0 {
			return nil, api.Errorf(http.StatusNotFound, api.CodeNoMatch, "the %d shards of source %d (%.100s) hold no samples: a member is a field of one if its name has an extension, such as 0001.jpg", counts[i], i, s.Sources[0])
		}
	}
	snap, err := shards.Snapshot()
	if err != nil {
		return nil, badStream("%v", err)
	}
	draws, err := drawsOf(req, sizes)
	if err != nil {
		return nil, err
	}
	ordered := *req
	ordered.Mixture = &chosen
	parts, blend, err := mixtureParts(&ordered, draws)
	if err != nil {
		return nil, err
	}
	info.Mixture = &api.MixtureInfo{Interleave: blend.Interleave.String(), Unit: blend.Unit}
	for i := range parts {
		parts[i].Shards = counts[i]
		info.Samples += draws[i]
		info.Mixture.Parts = append(info.Mixture.Parts, api.MixturePart{
			Shards: int64(counts[i]), Samples: sizes[i], Draws: draws[i],
			Shuffle: parts[i].Shuffle.Mode.String(), Slices: parts[i].Shuffle.Slices, Window: parts[i].Shuffle.Window,
			ETL: chosen.Sources[i].ETL, ETLArgs: chosen.Sources[i].ETLArgs,
		})
	}
	if err := sampler.CheckMixture(snap, parts, blend); err != nil {
		return nil, badStream("%v", err)
	}
	if info.Samples == 0 {
		return nil, badStream("no source of the mixture gives any samples")
	}
	info.Snapshot, info.Shards = snap.ID(), int64(snap.NumShards())
	return &mixture{info: info, snap: snap, parts: parts, blend: blend}, nil
}

// explainMixture is the plan of an epoch. Which shards are which source's follows from a listing alone, so
// that only the present data can be explained.
func (g *Gateway) explainMixture(ctx context.Context, req *api.ExplainRequest) (sampler.Plan, error) {
	m, err := g.resolveMixture(ctx, &req.StreamRequest, nil)
	if err != nil {
		return nil, err
	}
	if req.Snapshot != "" && m.snap.ID() != req.Snapshot {
		return nil, api.Errorf(http.StatusNotFound, api.CodeNoSnapshot,
			"the sources are now snapshot %.12s, not %.12s; of a mixture, only the present order is explained", m.snap.ID(), req.Snapshot)
	}
	plan, err := sampler.NewMixture(m.snap, m.parts, m.blend, req.Epoch)
	if err != nil {
		return nil, badStream("%v", err)
	}
	return plan, nil
}

// drawsOf is how many samples of an epoch each source gives. With batches from one source each, that is
// the multiple of the batch size that comes nearest.
func drawsOf(req *api.StreamRequest, sizes []int64) ([]int64, error) {
	m := req.Mixture
	unit := int64(1)
	if m.Interleave == sampler.PerSource.String() {
		unit = int64(req.BatchSize)
	}
	weights, weighted := weightsOf(m, sizes)
	if weighted {
		return shareOut(m, weights, sizes, unit)
	}
	draws := make([]int64, len(sizes))
	var total int64
	for i := range m.Sources {
		s := &m.Sources[i]
		n := sizes[i]
		switch {
		case s.Samples != nil:
			n = *s.Samples
		case s.Repeat != nil:
			exact := new(big.Rat).SetFloat64(*s.Repeat)
			n = nearest(exact.Mul(exact, new(big.Rat).SetInt64(sizes[i])))
			if n == 0 && *s.Repeat > 0 {
				n = 1
			}
		}
		if n > 0 && unit > 1 {
			n = max(1, nearest(big.NewRat(n, unit))) * unit
		}
		if n > sampler.MaxSamples-total {
			return nil, badStream("the sources of the mixture give more than %d samples an epoch", int64(sampler.MaxSamples))
		}
		draws[i] = n
		total += n
	}
	return draws, nil
}

// weightsOf is the sources' weights; where none is given and the epoch has a length, their sizes.
func weightsOf(m *api.Mixture, sizes []int64) (weights []float64, weighted bool) {
	weights = make([]float64, len(sizes))
	for i := range m.Sources {
		s := &m.Sources[i]
		switch {
		case s.Weight != nil:
			weights[i], weighted = *s.Weight, true
		case s.Repeat != nil || s.Samples != nil:
			return nil, false
		default:
			weights[i] = float64(sizes[i])
		}
	}
	return weights, weighted || m.Samples > 0
}

// shareOut divides the epoch by weight. A source that has a weight and comes away with nothing is an
// error: its data would silently not be there.
func shareOut(m *api.Mixture, weights []float64, sizes []int64, unit int64) ([]int64, error) {
	samples := m.Samples
	if samples == 0 {
		for _, n := range sizes {
			samples += n
		}
	}
	draws, err := sampler.Apportion(weights, max(1, nearest(big.NewRat(samples, unit))))
	if err != nil {
		return nil, badStream("the weights of a mixture are numbers of 0 or more, and one at least is more")
	}
	for i := range draws {
		if draws[i] == 0 && weights[i] > 0 {
			return nil, badStream("source %d (%.100s) with weight %v comes to none of the epoch's %d samples (in units of %d): take more samples, or a weight of 0 to leave it out", i, m.Sources[i].Sources[0], weights[i], samples, unit)
		}
		draws[i] *= unit
	}
	return draws, nil
}

// nearest rounds a number of 0 or more, halves up, to at most MaxSamples+1.
func nearest(x *big.Rat) int64 {
	x.Add(x, big.NewRat(1, 2))
	whole := new(big.Int).Quo(x.Num(), x.Denom())
	if limit := big.NewInt(sampler.MaxSamples + 1); whole.Cmp(limit) > 0 {
		return limit.Int64()
	}
	return whole.Int64()
}
