package target

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
)

// Pauses before an object is tried again.
const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
	retryTick  = 100 * time.Millisecond
)

// postpone puts an object aside until what it needs may be back.
func (p *part) postpone(it *item, err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if it.retries == 0 {
		it.since = now
	} else if now.Sub(it.since) > p.transform.Patience() {
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "%s has waited for %v: %v",
			api.Address(p.transform.Pattern.Bucket, it.name), p.transform.Patience(), err)
	}
	it.due = now.Add(min(firstRetry<<min(it.retries, 10), lastRetry))
	it.retries++
	it.reason = etlError(api.Address(p.transform.Pattern.Bucket, it.name), err).Message
	p.waiting = append(p.waiting, it)
	return nil
}

// retry gives postponed objects to the workers again when their time has come.
func (p *part) retry(ctx context.Context) error {
	tick := time.NewTicker(retryTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-p.complete:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, it := range p.due(time.Now()) {
			select {
			case p.again <- it:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func (p *part) due(now time.Time) (list []*item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = slices.DeleteFunc(p.waiting, func(it *item) bool {
		if now.Before(it.due) {
			return false
		}
		list = append(list, it)
		return true
	})
	return list
}

// finish notes what became of an object, and counts those up to the first that is not dealt with.
func (p *part) finish(it *item, o *outcome) {
	switch o.result {
	case "":
	case telemetry.JobObjectDone, telemetry.JobObjectFailed:
		p.jobs.meter.Object(api.JobTransform, o.result, o.in, o.out)
	default: // nothing was read or made
		p.jobs.meter.Object(api.JobTransform, o.result, 0, 0)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	it.outcome = o
	p.left--
	for len(p.window) > 0 && p.window[0].outcome != nil {
		p.count(p.window[0])
		p.window[0] = nil
		p.window = p.window[1:]
		<-p.slots
	}
	p.finishIfAll()
}

func (p *part) count(it *item) {
	o := it.outcome
	p.at.Cursor = it.name
	switch o.result {
	case "":
		return
	case telemetry.JobObjectDone, telemetry.JobObjectFound:
		p.at.Stored++
	case telemetry.JobObjectSkipped:
		p.at.Skipped++
	default:
		p.at.Failed++
		p.failures.Add(api.JobFailure{
			Object: api.Address(p.transform.Pattern.Bucket, it.name), Node: p.jobs.target.id, Error: o.failure,
		})
	}
	p.at.BytesIn += o.in
	p.at.BytesOut += o.out
}

func (p *part) finishIfAll() {
	if p.listed && p.left == 0 && !p.at.Done {
		p.at.Done = true
		close(p.complete)
	}
}
