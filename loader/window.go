package loader

import (
	"context"
	"fmt"
)

// acquire returns the batch with an index for a puller to write into, waiting until the window reaches
// it; nil when it was delivered already. Without wait, it is false where the window is not there yet.
func (it *iteration) acquire(ctx context.Context, index int64, wait bool) (*batch, bool, error) {
	it.mu.Lock()
	defer it.mu.Unlock()
	for {
		switch {
		case it.stopped:
			return nil, false, context.Canceled
		case index >= it.batches:
			return nil, false, fmt.Errorf("a target sent batch %d of %d", index, it.batches)
		case index < it.deliver:
			return nil, true, nil
		}
		if b := it.window[index]; b != nil {
			return b, true, nil
		}
		assigned, err := it.assignNext(ctx)
		if err != nil {
			return nil, false, err
		}
		if assigned {
			continue
		}
		if !wait {
			return nil, false, nil
		}
		it.cond.Wait()
	}
}

// assignNext gives the next batch a slot, in order, so that the batch the consumer waits for is never
// starved by later ones.
func (it *iteration) assignNext(ctx context.Context) (bool, error) {
	if it.assign >= it.deliver+int64(it.l.cfg.Prefetch) {
		return false, nil
	}
	// Where the consumer keeps all batches, what it waits for gets new memory: keeping is its choice.
	s, err := it.l.arena.take((it.assign == it.deliver || it.hungry) && !it.ahead)
	if err != nil || s == nil {
		return false, err
	}
	var b *batch
	if n := len(it.spare); n > 0 {
		b, it.spare = it.spare[n-1], it.spare[:n-1]
	} else {
		b = &batch{}
	}
	b.reset(it.assign, it.view.Batch(it.assign), s, it.l.cfg.padTo())
	it.window[it.assign] = b
	it.assign++
	it.cond.Broadcast()
	if it.assign <= it.answeredLocked() {
		it.repairLocked(ctx, it.assign-1) // no target holds a sample of it
	}
	return true, nil
}

// settle gives the rest of the batches their slots as the consumer makes room, for a puller that is
// through: batches of which no target holds a sample have nobody else who does.
func (it *iteration) settle(ctx context.Context) error {
	it.mu.Lock()
	defer it.mu.Unlock()
	for it.assign < it.batches {
		if it.stopped {
			return context.Canceled
		}
		assigned, err := it.assignNext(ctx)
		if err != nil {
			return err
		}
		if !assigned {
			it.cond.Wait()
		}
	}
	return nil
}
