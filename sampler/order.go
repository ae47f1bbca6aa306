package sampler

import (
	"errors"
	"fmt"
)

// Order is the permutation of one epoch: position -> sample number and back, by random access. Beside
// its snapshot it takes constant memory under Global and None, whatever the number of samples; under
// Shards and Window it takes about 12 bytes a shard or slice up to a million of them, and half a byte
// beyond, and making one takes time in proportion to them: share it. Methods allocate nothing, but
// for a block of slots in some thousand calls where there are more than a million.
//
// The methods panic where a position or sample is outside [0, Samples()).
type Order struct {
	of      run
	mode    Mode
	epoch   uint64
	samples bijection // Global
	slices  layout    // Window, Shards
}

// The purposes that keys are drawn for; part of the order's promise.
const (
	purposeSamples = iota + 1
	purposeSlices
	purposeWindows
	purposeBlend
	purposePart
)

// orderKey is the key for one purpose in one epoch of a seed.
func orderKey(purpose, seed, epoch uint64) uint64 { return hash(Version, purpose, seed, epoch) }

// maxSlots bounds the memory of a windowed order, and the time to make it: 25 MB and some ten seconds.
const maxSlots = 1 << 27

// NewOrder plans an epoch. It fails on an invalid shuffle, and on more slices than a windowed order can have.
func NewOrder(snap *Snapshot, shuffle Shuffle, epoch uint64) (*Order, error) {
	if snap == nil {
		return nil, errors.New("sampler: an order needs a snapshot")
	}
	if err := shuffle.Validate(); err != nil {
		return nil, err
	}
	shuffle = shuffle.withDefaults()
	if shuffle.Mode == Window && snap.NumShards() > maxSlots/shuffle.Slices {
		return nil, fmt.Errorf("sampler: %d shards of %d slices are more than the %d slices that a windowed order can have; use fewer slices", snap.NumShards(), shuffle.Slices, maxSlots)
	}
	return newOrder(snap.run(0, snap.NumShards()), shuffle, epoch), nil
}

// newOrder makes the order of a complete shuffle.
func newOrder(of run, shuffle Shuffle, epoch uint64) *Order {
	key := func(purpose uint64) uint64 { return orderKey(purpose, shuffle.Seed, epoch) }
	o := &Order{of: of, mode: shuffle.Mode, epoch: epoch}
	switch shuffle.Mode {
	case Global:
		o.samples = newBijection(of.samples, key(purposeSamples))
	case Window:
		o.slices.lay(of, shuffle.Slices, shuffle.Window, key(purposeSlices))
		o.slices.mixWindows(key(purposeWindows))
	case Shards:
		o.slices.lay(of, 1, 1, key(purposeSlices))
	case None:
	}
	return o
}

// Samples is the number of positions.
func (o *Order) Samples() int64 { return o.of.samples }

// Snapshot is the snapshot that the order was made from.
func (o *Order) Snapshot() *Snapshot { return o.of.snap }

// Sample is the number of the sample at a position.
func (o *Order) Sample(pos int64) int64 {
	inRange("position", pos, o.Samples())
	switch o.mode {
	case Global:
		return o.samples.forward(pos)
	case Window, Shards:
		shard, index := o.slices.at(pos)
		return o.of.start(shard) + index
	default:
		return pos
	}
}

// At is the shard at a position, and the sample's index in it.
func (o *Order) At(pos int64) (shard int, index int64) {
	if o.mode == Window || o.mode == Shards {
		inRange("position", pos, o.Samples())
		return o.slices.at(pos)
	}
	return o.of.locate(o.Sample(pos))
}

// Position is the position of a sample: the inverse of Sample.
func (o *Order) Position(sample int64) int64 {
	inRange("sample", sample, o.Samples())
	switch o.mode {
	case Global:
		return o.samples.inverse(sample)
	case Window, Shards:
		shard, index := o.of.locate(sample)
		return o.slices.position(shard, index)
	default:
		return sample
	}
}
