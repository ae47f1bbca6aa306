package sampler

// Plan is an epoch: which sample stands at each position. Order and Mixture are the two kinds.
type Plan interface {
	// Samples is the number of positions.
	Samples() int64
	// Snapshot is what the samples are numbered by.
	Snapshot() *Snapshot
	// Draw is what stands at a position. It panics where pos is outside [0, Samples()).
	Draw(pos int64) Draw
}

// Draw is one use of a sample.
type Draw struct {
	Sample int64
	Part   int    // of the mixture; 0 in an Order
	Pass   uint64 // over the part: no sample comes twice in one pass. In an Order, the epoch.
}

// Draw is what stands at a position.
func (o *Order) Draw(pos int64) Draw { return Draw{Sample: o.Sample(pos), Pass: o.epoch} }
