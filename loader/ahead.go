package loader

import (
	"context"
	"errors"
	"reflect"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

// When an epoch has been read to its end, and the consumer still works on its last batches, the next one
// is opened and its first batches are filled, as far as there are free slots. If the consumer then asks
// for just that epoch, and the gateway says that data and transformation are still the same, it goes on
// without a pause. Otherwise what was read is dropped.

// aheadFor is how long an epoch that was read ahead is kept: it occupies streams of the targets.
const aheadFor = time.Minute

// lookAhead starts the epoch after one whose pullers have ended.
func (l *Loader) lookAhead(it *iteration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cfg.ReadAhead || l.closed || l.run != it || l.next != nil {
		return
	}
	r := it.run
	r.Epoch, r.Position, r.Snapshot = r.Epoch+1, 0, ""
	next := startIteration(l, r, true)
	next.expiry = time.AfterFunc(aheadFor, func() { l.forget(next) })
	l.next = next
}

// forget drops an epoch that nobody asked for.
func (l *Loader) forget(it *iteration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == it {
		l.next = nil
		it.stop()
	}
}

// adopt makes an iteration that was read ahead the one to be delivered, once the gateway has confirmed it.
func (it *iteration) adopt() {
	ctx, cancel := context.WithCancel(context.Background())
	it.mu.Lock()
	it.counters.started = time.Now()
	stop := it.cancel
	it.cancel = func() { stop(); cancel() }
	it.mu.Unlock()
	it.confirming.Go(func() {
		defer cancel()
		info, err := it.open(ctx)
		it.mu.Lock()
		if err == nil && it.err == nil && sameStream(info, it.info) {
			it.ahead = false
			it.cond.Broadcast()
		} else if it.err == nil {
			it.err = errOutdated // an error of the network comes again, to the iteration in its place
		}
		confirmed := !it.ahead
		it.mu.Unlock()
		it.signal()
		if confirmed {
			go it.goOnAhead() //nolint:contextcheck // the next iteration has a context of its own
		}
	})
}

// goOnAhead reads the epoch after an adopted one ahead. A short one may have been read to its end before it
// was adopted, when it was not its turn yet. It ends with the iteration.
func (it *iteration) goOnAhead() {
	<-it.done
	it.mu.Lock()
	ok := it.err == nil
	it.mu.Unlock()
	if ok {
		it.l.lookAhead(it)
	}
}

// outdatedLocked is the error of an iteration that failed before it was confirmed: whatever was the
// matter, another one shall try.
func (it *iteration) outdatedLocked() error {
	switch {
	case it.err == nil, errors.Is(it.err, errEnded):
		return it.err
	default:
		return errOutdated
	}
}

// startAnew puts a new iteration in the place of one that turned out to be outdated.
func (l *Loader) startAnew(it *iteration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.run != it || l.closed {
		return
	}
	it.stop()
	l.run = startIteration(l, it.run, false)
}

// sameStream says whether two answers of a gateway describe the same samples in the same form.
func sameStream(a, b api.StreamInfo) bool {
	a.Map, b.Map = api.Map{}, api.Map{}
	return reflect.DeepEqual(a, b)
}
