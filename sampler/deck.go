package sampler

import "math/bits"

// keptPasses is how many passes of an epoch keep their keys; those of more are drawn again for each lookup.
const keptPasses = 16

// A deck deals one part's samples, an endless sequence of passes over all of them, each an order of its
// own: pass p is the epoch p of the part alone. An epoch of the mixture goes on where the last stopped.
type deck struct {
	first   int64 // number of the part's first sample
	n       int64
	shuffle Shuffle
	shape   shape // Global

	pass   uint64 // of the epoch's first draw
	offset int64  // of that draw in its pass
	keys   []schedule
	orders []*Order // Window, Shards: of the epoch's passes
}

// newDeck is the deck of the shards from one to another, for an epoch of a number of draws.
func newDeck(snap *Snapshot, from, to int, p *Part, epoch uint64) deck {
	shards := snap.run(from, to)
	d := deck{first: shards.first, n: shards.samples, shuffle: p.Shuffle.withDefaults()}
	if p.Draws == 0 {
		return d
	}
	hi, lo := bits.Mul64(epoch, uint64(p.Draws))
	// Beyond 2^64 passes their numbers begin again.
	pass, offset := bits.Div64(hi%uint64(d.n), lo, uint64(d.n))
	d.pass, d.offset = pass, int64(offset)
	passes := (d.offset+p.Draws-1)/d.n + 1
	switch d.shuffle.Mode {
	case Global:
		d.shape = newShape(d.n)
		d.keys = make([]schedule, min(passes, keptPasses))
		for i := range d.keys {
			d.keys[i] = newSchedule(orderKey(purposeSamples, d.shuffle.Seed, pass+uint64(i)))
		}
	case Window, Shards:
		d.orders = make([]*Order, passes)
		for i := range d.orders {
			d.orders[i] = newOrder(shards, d.shuffle, pass+uint64(i))
		}
	case None:
	}
	return d
}

// orderSlots is the memory of an order apart from its slots, in slots: what counts where there are few.
const orderSlots = 64

// slots is the memory that the order of one pass takes, in slots of an order that has few: of those that are
// kept by blocks, less than a sixteenth each.
func (p *Part) slots(shards int) int64 {
	n := int64(shards)
	switch p.Shuffle.Mode {
	case Window:
		n *= int64(p.Shuffle.withDefaults().Slices)
	case Shards:
	default:
		return 0
	}
	if n > maxSingle {
		n = maxSingle/16 + n/16
	}
	return orderSlots + n
}

// deal is a draw of the epoch: the sample, and the pass that it belongs to.
func (d *deck) deal(draw int64) (sample int64, pass uint64) {
	draw += d.offset
	i := draw / d.n
	at := draw - i*d.n
	pass = d.pass + uint64(i)
	switch d.shuffle.Mode {
	case Global:
		if i < int64(len(d.keys)) {
			return d.first + d.keys[i].forward(d.shape, 0, at), pass
		}
		keys := newSchedule(orderKey(purposeSamples, d.shuffle.Seed, pass))
		return d.first + keys.forward(d.shape, 0, at), pass
	case Window, Shards:
		return d.first + d.orders[i].Sample(at), pass
	default:
		return d.first + at, pass
	}
}
