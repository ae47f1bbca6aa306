package sampler

import "fmt"

// Limits of a View. They keep its arithmetic within int64, and a batch within what a node should hold at once.
const (
	MaxBatchSize = 1 << 18
	MaxWorld     = 1 << 20
	MaxWorkers   = 1 << 20
)

// View is one worker's part of an epoch: the positions [Start, Samples) are cut into steps of
// World*BatchSize, a step into one batch for each rank, and a rank's batches are dealt to its workers
// in turn. All ranks take the same number of steps, and every position goes to one rank.
//
// A view of 0 samples has no batches. Start is where an earlier run stopped (Batch.Next), whatever
// its batch size and world size were.
type View struct {
	Samples, Start  int64
	BatchSize       int
	World, Rank     int
	Workers, Worker int
	DropLast        bool // leave the last step out where it is not full
}

// Validate says what is wrong with a view. The other methods need a valid one.
func (v View) Validate() error {
	switch {
	case v.Samples < 0 || v.Samples > MaxSamples:
		return fmt.Errorf("sampler: %d samples, 0 to %d are possible", v.Samples, int64(MaxSamples))
	case v.Start < 0 || v.Start > v.Samples:
		return fmt.Errorf("sampler: start position %d is not within the epoch's %d samples", v.Start, v.Samples)
	case v.BatchSize < 1 || v.BatchSize > MaxBatchSize:
		return fmt.Errorf("sampler: batch size %d, 1 to %d are possible", v.BatchSize, MaxBatchSize)
	case v.World < 1 || v.World > MaxWorld:
		return fmt.Errorf("sampler: world size %d, 1 to %d are possible", v.World, MaxWorld)
	case v.Rank < 0 || v.Rank >= v.World:
		return fmt.Errorf("sampler: rank %d in a world of %d, expected 0 to %d", v.Rank, v.World, v.World-1)
	case v.Workers < 1 || v.Workers > MaxWorkers:
		return fmt.Errorf("sampler: %d workers, 1 to %d are possible", v.Workers, MaxWorkers)
	case v.Worker < 0 || v.Worker >= v.Workers:
		return fmt.Errorf("sampler: worker %d of %d, expected 0 to %d", v.Worker, v.Workers, v.Workers-1)
	}
	return nil
}

// step is the number of positions in a full step.
func (v View) step() int64 { return int64(v.World) * int64(v.BatchSize) }

// Steps is the number of steps from Start on: of batches for each rank, over all its workers.
func (v View) Steps() int64 {
	left := v.Samples - v.Start
	if v.DropLast {
		return left / v.step()
	}
	return (left + v.step() - 1) / v.step()
}

// Batches is the number of batches for this worker.
func (v View) Batches() int64 {
	k := int64(v.Workers)
	return (v.Steps() - int64(v.Worker) + k - 1) / k
}

// Batch is the part of one step that one rank takes: Count positions from Start on.
type Batch struct {
	Step  int64 // counted from the view's Start
	Start int64 // first position
	Count int64 // positions; 0 only where fewer than one a rank were left for the last step
	Pad   int64 // 1 where Count is 0: repeat the sample at Start, masked, so that the rank has a batch
	Next  int64 // the position to go on from once the step is done: what a checkpoint stores
}

// Batch is the i-th batch of this worker, 0 <= i < Batches().
func (v View) Batch(i int64) Batch {
	inRange("batch", i, v.Batches())
	s := i*int64(v.Workers) + int64(v.Worker)
	first := v.Start + s*v.step()
	left := min(v.step(), v.Samples-first)
	b := Batch{Step: s, Next: first + left}
	rank, world := int64(v.Rank), int64(v.World)
	switch {
	case left >= world: // a full step comes out as BatchSize each
		from, to := left*rank/world, left*(rank+1)/world
		b.Start, b.Count = first+from, to-from
	case rank < left:
		b.Start, b.Count = first+rank, 1
	default:
		b.Start, b.Pad = first, 1
	}
	return b
}
