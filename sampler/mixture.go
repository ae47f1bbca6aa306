package sampler

import (
	"errors"
	"fmt"
)

// MaxParts bounds the parts of a mixture.
const MaxParts = 1000

// Part is one source of a mixture: the shards that follow those of the parts before it.
type Part struct {
	Shards  int     // of the snapshot; may be none where there are no draws
	Draws   int64   // samples that it gives an epoch; any number, whatever it has
	Shuffle Shuffle // of each pass over the part
}

// PartSeed is the seed of a part's shuffle in a mixture of one seed, so that no two parts of one size are
// permuted alike.
func PartSeed(seed uint64, part int) uint64 {
	return hash(Version, purposePart, seed, uint64(part))
}

// Mixture is the plan of one epoch over several parts of one snapshot. A part's draws are an endless
// sequence of passes over its samples, of which an epoch takes the next Draws: with fewer than it has
// samples, none comes twice before all came once; with more, they come again in an order of their own.
//
// Lookups are by random access, allocate nothing, and take a few words a part and what an Order
// takes for each pass that an epoch touches: under Global and None nothing that grows with samples
// or passes.
type Mixture struct {
	snap  *Snapshot
	turns *Turns
	decks []deck
}

// NewMixture plans an epoch. The parts are the snapshot's shards, all of them and in order.
//
// Under Random all parts are shuffled as Global: the others keep some order of a part, which
// permuting its draws would undo.
func NewMixture(snap *Snapshot, parts []Part, blend Blend, epoch uint64) (*Mixture, error) {
	if err := CheckMixture(snap, parts, blend); err != nil {
		return nil, err
	}
	turns, err := NewTurns(drawsOf(parts), blend, epoch)
	if err != nil {
		return nil, err
	}
	m := &Mixture{snap: snap, turns: turns, decks: make([]deck, len(parts))}
	shard := 0
	for i := range parts {
		p := &parts[i]
		m.decks[i] = newDeck(snap, shard, shard+p.Shards, p, epoch)
		shard += p.Shards
	}
	return m, nil
}

func drawsOf(parts []Part) []int64 {
	draws := make([]int64, len(parts))
	for i := range parts {
		draws[i] = parts[i].Draws
	}
	return draws
}

// CheckMixture says what NewMixture would refuse, without planning an epoch.
func CheckMixture(snap *Snapshot, parts []Part, blend Blend) error {
	if snap == nil {
		return errors.New("sampler: a mixture needs a snapshot")
	}
	if err := blend.Validate(parts); err != nil {
		return err
	}
	return coverShards(snap, parts)
}

// Validate says what is wrong with a blend and its parts, apart from the shards.
func (b Blend) Validate(parts []Part) error {
	if err := b.validate(drawsOf(parts)); err != nil {
		return err
	}
	for i := range parts {
		shuffle := parts[i].Shuffle
		if err := shuffle.Validate(); err != nil {
			return fmt.Errorf("part %d: %w", i, err)
		}
		if b.Interleave == Random && shuffle.Mode != Global {
			return fmt.Errorf(`sampler: interleave "random" permutes all samples, which undoes shuffle %q of part %d; take "global" there, or interleave "stratified"`, shuffle.Mode, i)
		}
	}
	return nil
}

// maxMixed bounds the memory of all orders of a mixture, in slots of 12 bytes.
const maxMixed = 1 << 24

// coverShards checks that the parts are the snapshot's shards, and that their orders fit into memory.
func coverShards(snap *Snapshot, parts []Part) error {
	shard, slots := 0, int64(0)
	for i := range parts {
		p := &parts[i]
		if p.Shards < 0 || p.Shards > snap.NumShards()-shard {
			return fmt.Errorf("sampler: part %d has %d shards, the snapshot only %d after those before", i, p.Shards, snap.NumShards()-shard)
		}
		n := snap.First(shard+p.Shards) - snap.First(shard)
		if n == 0 && p.Draws > 0 {
			return fmt.Errorf("sampler: part %d shall give %d samples an epoch and has none", i, p.Draws)
		}
		if each := p.slots(p.Shards); each > 0 && p.Draws > 0 {
			passes := p.Draws/n + 2 // that an epoch may touch
			if passes > (maxMixed-slots)/each {
				return fmt.Errorf(`sampler: %d passes an epoch over the %d shards of part %d take more memory than an order may under shuffle %q; take "global", or fewer samples`, passes-1, p.Shards, i, p.Shuffle.Mode)
			}
			slots += each * passes
		}
		shard += p.Shards
	}
	if shard != snap.NumShards() {
		return fmt.Errorf("sampler: the parts have %d shards, the snapshot %d", shard, snap.NumShards())
	}
	return nil
}

// Samples is the number of positions.
func (m *Mixture) Samples() int64 { return m.turns.samples }

// Snapshot is the snapshot that the mixture was made from.
func (m *Mixture) Snapshot() *Snapshot { return m.snap }

// Sample is the number of the sample at a position.
func (m *Mixture) Sample(pos int64) int64 { return m.Draw(pos).Sample }

// Draw is what is drawn at a position.
func (m *Mixture) Draw(pos int64) Draw {
	part, draw := m.turns.At(pos)
	sample, pass := m.decks[part].deal(draw)
	return Draw{Sample: sample, Part: part, Pass: pass}
}
