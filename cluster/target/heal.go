package target

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/store"
)

// HealConfig wires what looks after the copies on a target. Times and Rate are heal.Config's.
type HealConfig struct {
	HealAfter, DeleteGrace, TombstoneGrace time.Duration
	Rate                                   int64
}

// Heal looks after what lies on a target: see package heal.
type Heal struct {
	target *Target
	board  *heal.EtcdBoard
	healer *heal.Healer
}

// NewHeal makes it. Call it before Serve.
func NewHeal(t *Target, c HealConfig) (*Heal, error) {
	meter, err := telemetry.NewHeal(t.metrics)
	if err != nil {
		return nil, err
	}
	board := heal.NewBoard(t.members, t.id)
	h := &Heal{target: t, board: board}
	h.healer = heal.New(heal.Config{
		Self: t.id, Store: t.store, Peers: h, Board: board, Gate: &t.gate, Slices: t.slices, Deletes: t.deletes,
		State:  func(round int64) heal.State { return heal.StateOf(t.members.View(), round) },
		Leased: t.members.Leased, Busy: t.busy, Logger: t.log,
		Observe:   func(c heal.Counts) { meter.Add(c.Moved, c.Bytes, c.Deleted, c.Failed) },
		HealAfter: c.HealAfter, DeleteGrace: c.DeleteGrace, TombstoneGrace: c.TombstoneGrace, Rate: c.Rate,
	})
	if err := meter.Watch(func() (left int64, running bool) {
		r := h.healer.Report()
		return max(r.Count.Total-r.Count.Objects, 0) + r.Count.Left, r.State == api.RebalanceRunning
	}); err != nil {
		return nil, err
	}
	t.inspect = h.healer.Inspect
	return h, nil
}

// Run works until the context ends.
func (h *Heal) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.board.Run(ctx) })
	group.Go(func() error { return h.healer.Run(ctx) })
	return group.Wait()
}

// Have implements heal.Peers.
func (h *Heal) Have(ctx context.Context, version int64, node api.Node, bucket string, names []string) ([]*heal.Answer, error) {
	states, err := h.target.copies.With(version).Have(ctx, node, bucket, names)
	if err != nil {
		return nil, err
	}
	// What a target with a disk that is out does not have elsewhere may be on that disk. Of what is mirrored, the others
	// have the same, and it gets a copy on its other disks; of what is not, nobody knows.
	b, known := h.target.members.View().Bucket(bucket)
	mirrored := known && b.Copies() > 1 && len(b.Was) == 0
	answers := make([]*heal.Answer, len(states))
	for i, s := range states {
		if !s.Unknown || mirrored {
			answers[i] = &heal.Answer{Version: s.Version, Lost: s.Kind == store.Lost}
		}
	}
	return answers, nil
}

// Push implements heal.Peers. A copy that turns out to be damaged is mended, to be given when it is tried again.
func (h *Heal) Push(ctx context.Context, version int64, node api.Node, info store.Info) (int64, error) {
	t := h.target
	ctx, cancel := context.WithTimeout(ctx, giveTimeout+time.Duration(info.Payload()/slowBytes)*time.Second)
	defer cancel()
	client := t.copies.With(version)
	moved := info.Payload()
	if info.Data > 0 { // its bytes are in slices: others get its description
		moved = 0
	}
	var err error
	if info.Kind == store.Tombstone {
		err = client.Bury(ctx, node, info.Bucket, info.Name, info.Version)
	} else {
		err = t.sendCopy(ctx, client, node, info.Bucket, info.Name, info.Version)
	}
	var corrupt *store.CorruptError
	switch {
	case copies.Is(err, api.CodeSuperseded), copies.Is(err, api.CodeChanged), errors.Is(err, store.ErrNotFound):
		return 0, nil // written anew meanwhile, here or there: that write sees to its own copies
	case errors.As(err, &corrupt):
		return 0, errors.Join(err, t.Mend(ctx, info.Bucket, info.Name, info.Version))
	}
	return moved, err
}

// users is what tells whether this target is at work for its users.
type users struct {
	requests atomic.Int64
	streamed atomic.Int64 // bytes that streams had sent when that was last asked
}

// busy says whether requests are under way, or streams have sent anything since the last call.
func (t *Target) busy() bool {
	now := t.metrics.Streamed()
	return t.users.streamed.Swap(now) != now || t.users.requests.Load() > 0
}

// begin counts a request, if it is a user's, until end is called.
func (u *users) begin(path string) (end func()) {
	if !strings.HasPrefix(path, "/v1/objects/") {
		return func() {}
	}
	u.requests.Add(1)
	return func() { u.requests.Add(-1) }
}

// inspected adds to a report of fsck what heal finds about where copies lie.
func (t *Target) inspected(ctx context.Context, report *api.FsckReport) error {
	if t.inspect == nil {
		return nil
	}
	found, err := t.inspect(ctx)
	if err != nil {
		return err
	}
	report.Objects = found.Objects
	for _, f := range found.Missing {
		report.Missing = append(report.Missing, t.finding(f))
	}
	for _, f := range found.Stray {
		report.Stray = append(report.Stray, t.finding(f))
	}
	return nil
}

func (t *Target) finding(f heal.Finding) api.Finding {
	return api.Finding{Node: t.id, Disk: f.Info.Disk, Object: api.Address(f.Info.Bucket, f.Info.Name), Block: -1, Detail: f.Detail}
}

// fsck reads and verifies all that the node holds, and compares it with what is to be where.
func (t *Target) fsck(r *Request) error {
	answer := api.FsckReport{Corrupt: []api.Finding{}, Missing: []api.Finding{}, Stray: []api.Finding{}}
	report, err := t.store.Fsck(r.Context())
	if err != nil {
		return err
	}
	answer.Objects = report.Objects
	answer.Corrupt = t.findings(report.Corrupt)
	answer.Missing, answer.Stray = t.findings(report.Missing), t.findings(report.Stray)
	if err := t.inspected(r.Context(), &answer); err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, answer)
}
