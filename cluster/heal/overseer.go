package heal

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

const overseeEvery = 250 * time.Millisecond

// Overseer is a gateway's view of how far the targets are. On the gateway that leads, it notes in the map when all is
// where it belongs.
type Overseer struct {
	members *membership.Membership
	log     *slog.Logger

	mu      sync.Mutex
	control Control
	reports map[string]Report
}

// NewOverseer makes a gateway's.
func NewOverseer(m *membership.Membership, log *slog.Logger) *Overseer {
	return &Overseer{members: m, log: log, reports: map[string]Report{}}
}

// Run follows the targets' reports until the context ends.
func (o *Overseer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return o.members.KV(controlFolder).Watch(ctx, func(entries []membership.Entry) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.control = controlOf(entries)
		})
	})
	group.Go(func() error { return o.members.KV(reportFolder).Watch(ctx, o.learn) })
	group.Go(func() error {
		for pause(ctx, overseeEvery) {
			if o.members.Leader() {
				o.settle(ctx)
			}
		}
		return nil
	})
	return group.Wait()
}

func (o *Overseer) learn(entries []membership.Entry) {
	reports := make(map[string]Report, len(entries))
	for _, e := range entries {
		var r Report
		if json.Unmarshal(e.Value, &r) == nil { // else it is of another release
			reports[e.Name] = r
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reports = reports
}

// look is the cluster and its targets' reports, as seen now.
func (o *Overseer) look() (State, Control, map[string]Report) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return StateOf(o.members.View(), o.control.Round), o.control, o.reports
}

// settle notes that all is where it belongs, once it is.
func (o *Overseer) settle(ctx context.Context) {
	s, control, reports := o.look()
	drained := Drained(s, reports)
	if control.Stopped || !Pending(s, drained) || len(Unsettled(s, reports)) > 0 {
		return
	}
	version := s.Placer.Map.Version
	if err := o.members.Settle(ctx, version, drained...); err != nil {
		o.log.DebugContext(ctx, "could not note that all data is where it belongs; trying again", "map", version, "error", err)
		return
	}
	o.log.InfoContext(ctx, "all data is where it belongs", "map", version, "drained", drained)
}

// Status says how far the rebalance is.
func (o *Overseer) Status() api.Rebalance {
	s, control, reports := o.look()
	return Status(s, control, reports)
}

// Start has everything looked at again, and ends a stop.
func (o *Overseer) Start(ctx context.Context) error {
	return o.change(ctx, func(c *Control) { c.Stopped, c.Round = false, c.Round+1 })
}

// Stop has the targets move and delete nothing until Start.
func (o *Overseer) Stop(ctx context.Context) error {
	return o.change(ctx, func(c *Control) { c.Stopped = true })
}

func (o *Overseer) change(ctx context.Context, change func(*Control)) error {
	c, err := Change(ctx, o.members, change)
	if err == nil { // what is asked through this gateway next is to see it
		o.mu.Lock()
		defer o.mu.Unlock()
		o.control = c
	}
	return err
}

// Drained lists the targets that were to give all away, and have, but are not marked so yet.
func Drained(s State, reports map[string]Report) []string {
	var ids []string
	goal := s.Goal()
	for _, n := range s.Placer.Map.Targets() {
		if r := reports[n.ID]; n.Draining && !n.Drained && r.Goal == goal && r.Empty && r.Placed && r.Clean {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// Pending says whether there is anything to be noted in the map once nothing is unsettled: earlier sets to forget,
// targets that are bare no more, changes of buckets that are done, or targets that are drained.
func Pending(s State, drained []string) bool {
	m := &s.Placer.Map
	return len(m.Former) > 0 || len(drained) > 0 ||
		slices.ContainsFunc(m.Nodes, func(n api.Node) bool { return n.Bare }) ||
		slices.ContainsFunc(s.Buckets, func(b Bucket) bool { return len(b.Was) > 0 })
}

// Status renders how far the targets are for people.
func Status(s State, control Control, reports map[string]Report) api.Rebalance {
	out := api.Rebalance{State: api.RebalanceIdle, Map: s.Placer.Map.Version}
	goal, working, draining := s.Goal(), false, false
	for _, n := range s.Placer.Map.Targets() {
		draining = draining || n.Draining && !n.Drained
		r, reported := reports[n.ID]
		if !reported || n.Away {
			continue
		}
		if r.Goal != goal {
			r = Report{State: api.RebalanceRunning} // it is about to begin
		}
		working = working || n.State == api.StateOK && r.State == api.RebalanceRunning
		out.Targets = append(out.Targets, r.target(n.ID))
		out.Objects, out.Total = out.Objects+r.Count.Objects, out.Total+r.Count.Total
		out.Moved, out.Bytes = out.Moved+r.Count.Moved, out.Bytes+r.Count.Bytes
		out.Deleted, out.Failed = out.Deleted+r.Count.Deleted, out.Failed+r.Count.Failed
		out.Rate += r.Rate
		out.ETAS = max(out.ETAS, r.eta())
	}
	reasons := Unsettled(s, reports)
	switch {
	case control.Stopped:
		out.State, out.Reasons = api.RebalanceStopped, reasons
	case working || len(reasons) == 0 && (draining || Pending(s, nil)):
		out.State, out.Reasons = api.RebalanceRunning, reasons
	case len(reasons) > 0:
		out.State, out.Reasons = api.RebalanceWaiting, reasons
	}
	return out
}
