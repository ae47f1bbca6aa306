package loader

import (
	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/sampler"
)

// Mixture describes an epoch over several sources; Config.Mixture.
type Mixture = api.Mixture

// planOf is what the targets are told of a mixture: the gateway's exact numbers, so that all of them work
// out the same order.
func planOf(m *api.MixtureInfo) *wire.Mixture {
	if m == nil {
		return nil
	}
	plan := &wire.Mixture{Interleave: m.Interleave, Unit: m.Unit, Parts: make([]wire.Part, len(m.Parts))}
	for i, p := range m.Parts {
		plan.Parts[i] = wire.Part{Shards: p.Shards, Draws: p.Draws, Shuffle: p.Shuffle, Slices: p.Slices, Window: p.Window, ETL: p.ETL, ETLArgs: p.ETLArgs}
	}
	return plan
}

// turnsOf is whose turn each position of an epoch is: what the loader itself knows of a mixture's order, to
// say which source each sample is from.
func turnsOf(m *api.MixtureInfo, seed, epoch uint64) (*sampler.Turns, error) {
	if m == nil {
		return nil, nil
	}
	interleave, err := sampler.ParseInterleave(m.Interleave)
	if err != nil {
		return nil, err
	}
	draws := make([]int64, len(m.Parts))
	for i, p := range m.Parts {
		draws[i] = p.Draws
	}
	return sampler.NewTurns(draws, sampler.Blend{Interleave: interleave, Unit: m.Unit, Seed: seed}, epoch)
}

// checkMixture refuses a gateway's answer that does not fit the description: one of a version that knows no
// mixtures would stream nothing, or something else.
func checkMixture(want *api.Mixture, got *api.MixtureInfo) error {
	if want != nil && (got == nil || len(got.Parts) != len(want.Sources)) {
		return api.Errorf(500, api.CodeInternal, "the gateway did not answer with the %d parts of the mixture: is it of an older version?", len(want.Sources))
	}
	return nil
}
