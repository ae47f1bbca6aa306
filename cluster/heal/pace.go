package heal

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// pace holds heal back: to so many bytes a second where that is set, and to a part of the time while the target has
// requests of its users to answer.
type pace struct {
	limit *rate.Limiter // nil: none
	busy  func() bool
}

// Bounds of how long heal makes way. It always goes on in the end: redundancy that is lacking is a danger of its own.
const (
	makeWay    = 3 // times as long as the work took
	maxMakeWay = 300 * time.Millisecond
	burst      = 8 << 20
)

func newPace(bytesPerSecond int64, busy func() bool) *pace {
	p := &pace{busy: busy}
	if bytesPerSecond > 0 {
		p.limit = rate.NewLimiter(rate.Limit(bytesPerSecond), int(max(burst, min(bytesPerSecond, 1<<30))))
	}
	return p
}

// before waits until so many bytes may be moved.
func (p *pace) before(ctx context.Context, bytes int64) error {
	if p.limit == nil {
		return nil
	}
	for most := int64(p.limit.Burst()); bytes > 0; bytes -= most {
		if err := p.limit.WaitN(ctx, int(min(bytes, most))); err != nil {
			return err
		}
	}
	return nil
}

// after makes way for users' requests, in proportion to what the work took.
func (p *pace) after(ctx context.Context, took time.Duration) {
	if p.busy != nil && p.busy() {
		pause(ctx, min(makeWay*took, maxMakeWay))
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
