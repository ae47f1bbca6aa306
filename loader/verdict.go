package loader

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/shardstream/shardstream/core/wire"
)

// What a run can be bound by.
const (
	BoundOpening = "opening" // no batch has arrived yet
	BoundTrainer = "trainer" // batches are ready before they are asked for
	BoundNetwork = "network" // targets wait for the connection, or the reader, to take more
	BoundDisk    = "disk"    // targets wait for their disks
	BoundETL     = "etl"     // targets wait for the transformation
	BoundTarget  = "target"  // a target's own work, or it has not said yet what
	BoundLoader  = "loader"  // targets of this machine wait for this process to take more
)

const (
	// keepsUp is the share of its time that a trainer may wait for batches and still be the slower side.
	keepsUp = 0.1
	// coldShare is the part of what a node sends that it must have read from its disks for them to matter.
	coldShare = 0.25
)

// verdict says what bounds a run now, and what would help, in a sentence.
func verdict(c *counters, etl string) (bound, advice string) {
	if c.batches == 0 {
		return BoundOpening, fmt.Sprintf("No batch has arrived yet, after %.1f s%s.", c.elapsed().Seconds(), c.silent())
	}
	now := c.trail.rates(c.point(c.looked))
	if c.batches == 1 || now.Seconds == 0 {
		return BoundOpening, "One batch has arrived; ask again after some more."
	}
	if now.WaitShare < keepsUp {
		return BoundTrainer, fmt.Sprintf("The trainer is the bottleneck: over the last %.1f s it waited for batches %s of the time; the data keeps up, a faster training step would go faster.",
			now.Seconds, percent(now.WaitShare))
	}
	id, w, shared := c.slowest()
	waits := fmt.Sprintf("the trainer waited for batches %s of the last %.1f s", percent(now.WaitShare), now.Seconds)
	bound, reason := blame(w, etl, now.BytesPS, shared)
	return bound, fmt.Sprintf("%s %s; %s, mostly for those of %s.", sentences[bound], reason, waits, id)
}

// sentences begin the advice.
var sentences = map[string]string{
	BoundNetwork: "The network is the bottleneck, or this process's share of the CPU:",
	BoundDisk:    "The disks are the bottleneck:",
	BoundETL:     "The transformation is the bottleneck:",
	BoundTarget:  "A target is the bottleneck:",
	BoundLoader:  "This process's share of the CPU is the bottleneck:",
}

// silent names the targets that have not sent anything.
func (c *counters) silent() string {
	if len(c.targets) == 0 {
		return ": the stream is being opened, or no target has answered"
	}
	return fmt.Sprintf(": %d targets have begun to answer", len(c.targets))
}

// slowest is the target that the consumer waited for most of late, its work, and whether it shares memory
// with this process.
func (c *counters) slowest() (id string, w wire.Work, shared bool) {
	most := time.Duration(-1)
	for _, name := range slices.Sorted(maps.Keys(c.targets)) {
		t := c.targets[name]
		d, took := t.trail.since(t.point(c.looked))
		if took > 0 && d.waited > most {
			id, w, shared, most = name, d.work, t.Transport == TransportShared, d.waited
		}
	}
	return id, w, shared
}

// blame finds the part of a target's work that takes longest.
func blame(w wire.Work, etl string, rate float64, shared bool) (bound, reason string) {
	wall := float64(w.Send + w.Idle)
	cold := float64(w.Stored) >= coldShare*float64(w.Sent) && w.Stored > 0
	push := max(w.Send-w.Full, 0)
	switch {
	case wall == 0:
		return BoundTarget, "it has not said yet what it is busy with; ask again in a second"
	case w.Idle > w.Send && w.ETL >= max(w.Read, w.Plan):
		return BoundETL, fmt.Sprintf("for %s of its time the target had nothing to send while %q ran; give it more workers, add targets, or simplify it", percent(float64(w.Idle)/wall), etl)
	case w.Idle > w.Send && (w.Read > w.Plan || cold):
		return BoundDisk, fmt.Sprintf("for %s of its time the target had nothing to send while it read; %s", percent(float64(w.Idle)/wall), diskAdvice)
	case w.Idle > w.Send:
		return BoundTarget, fmt.Sprintf("for %s of its time it had nothing to send while it planned and opened shards; add targets, or make larger shards", percent(float64(w.Idle)/wall))
	case push > w.Full && cold:
		return BoundDisk, fmt.Sprintf("%s of what the node sent had to be read from them; %s", percent(min(float64(w.Stored)/float64(max(w.Sent, 1)), 1)), diskAdvice)
	case shared && push > w.Full:
		return BoundTarget, fmt.Sprintf("%.0f MB/s are copied into this process's memory, as fast as it can; more targets would help", rate/1e6)
	case shared:
		return BoundLoader, fmt.Sprintf("%.0f MB/s arrive, and the target is ready to write more; leave the reader a free core", rate/1e6)
	default:
		return BoundNetwork, fmt.Sprintf("%.0f MB/s arrive, and the target is ready to send more; a faster link, fewer fields or an etl that sends less would help", rate/1e6)
	}
}

const diskAdvice = `more disks, more memory for the page cache, or shuffle="window", if it is another, would help; ` +
	`shards that have to be fetched from a bucket's backend come at its speed`

func percent(share float64) string { return fmt.Sprintf("%.0f %%", share*100) }
