package membership

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/shardstream/shardstream/cluster/api"
)

// Leader says that this node is the gateway that does what one of them has to do: watching over the targets' leases,
// settling the map. It is advice, not a lock: what a leader writes is written by compare-and-swap, so that two who
// both take themselves for it, while one's lease runs out, do no harm.
func (m *Membership) Leader() bool {
	return m.config.Self.Role == api.RoleGateway && m.Leased() && m.View().leader == m.candidacy()
}

// candidacy names this life of this node: after a restart the key of the one before runs out first.
func (m *Membership) candidacy() string {
	return m.config.Self.ID + "/" + strconv.FormatInt(m.lease.Load(), 16)
}

// Times of a leader, in parts of the lease's.
const (
	electionParts = 4  // how often the place is tried for, besides when it becomes free
	gatherParts   = 10 // how long a target must have been gone: several that go at the same time make one change
)

// lead stands for election all the time, and does the leader's work while elected.
func (m *Membership) lead(ctx context.Context) {
	w := watcher{m: m, missing: map[string]time.Time{}}
	for ctx.Err() == nil {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		again := m.config.LeaseTTL / electionParts
		switch {
		case m.Leader():
			again = min(again, w.look(ctx, m.View()))
		case m.View().leader == "" && m.Leased():
			m.stand(ctx)
			w.forget()
		default:
			w.forget()
		}
		timer := time.NewTimer(again)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// stand takes the leader's place if it is free.
func (m *Membership) stand(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := root + "leader"
	answer, err := m.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, m.candidacy(), clientv3.WithLease(clientv3.LeaseID(m.lease.Load())))).Commit()
	if err != nil {
		m.log.DebugContext(ctx, "could not stand for election", "error", err)
		return
	}
	if answer.Succeeded {
		m.log.InfoContext(ctx, "this gateway leads the cluster")
		_, _ = m.Wait(ctx, answer.Header.Revision) // else seen later
	}
}

// watcher marks targets as away whose lease is over.
type watcher struct {
	m       *Membership
	since   time.Time            // of leading
	missing map[string]time.Time // targets without a lease: since when
}

func (w *watcher) forget() {
	w.since = time.Time{}
	clear(w.missing)
}

// look takes note of who is missing, marks who is for long enough, and returns when to look again at the latest.
func (w *watcher) look(ctx context.Context, v *View) time.Duration {
	now := time.Now()
	if w.since.IsZero() {
		w.since = now
	}
	ttl := w.m.config.LeaseTTL
	next := ttl
	var gone []string
	alive := 0
	for _, n := range v.Map().Targets() {
		if n.State == api.StateOK {
			alive++
			delete(w.missing, n.ID)
			continue
		}
		if n.Away {
			continue
		}
		since, known := w.missing[n.ID]
		if !known {
			since = now
			w.missing[n.ID] = now
		}
		// One that was missing when this gateway came to lead may be starting at the same time as it.
		patience := ttl / gatherParts
		if !since.After(w.since) {
			patience = ttl
		}
		if left := patience - now.Sub(since); left > 0 {
			next = min(next, left)
			continue
		}
		gone = append(gone, n.ID)
	}
	back := w.returned(v)
	// Where nobody is left there is nobody to take over: all wait for each other.
	if alive == 0 || len(gone) == 0 && len(back) == 0 {
		return next
	}
	if err := w.m.markAway(ctx, gone, back); err != nil {
		var full *FullError
		if !errors.As(err, &full) || len(gone) > 0 {
			w.m.log.WarnContext(ctx, "could not mark targets that are away", "targets", gone, "error", err)
		}
		return ttl
	}
	w.m.log.InfoContext(ctx, "targets went away or came back", "away", gone, "back", back, "map", w.m.View().Map().Version)
	return next
}

// returned are targets that live but could not be taken back when they registered.
func (w *watcher) returned(v *View) (ids []string) {
	if len(v.Map().Former) >= maxFormer {
		return nil
	}
	for _, n := range v.Map().Targets() {
		if n.Away && n.State == api.StateOK {
			ids = append(ids, n.ID)
		}
	}
	return ids
}

// markAway changes the map for targets that have no lease, or have one again. It counts what the leases are at the commit.
func (m *Membership) markAway(ctx context.Context, gone, back []string) error {
	revision, err := m.tryChange(ctx, func(d document) (proposal, error) {
		gone := slices.DeleteFunc(slices.Clone(gone), func(id string) bool { return !isTarget(d.current, id, false) })
		back := slices.DeleteFunc(slices.Clone(back), func(id string) bool { return !isTarget(d.current, id, true) })
		if len(gone)+len(back) == 0 {
			return proposal{next: d.current}, nil
		}
		p := proposal{ifs: []clientv3.Cmp{clientv3.Compare(clientv3.Value(root+"leader"), "=", m.candidacy())}}
		for _, id := range gone {
			p.ifs = append(p.ifs, clientv3.Compare(clientv3.CreateRevision(root+"live/"+id), "=", 0))
		}
		for _, id := range back {
			p.ifs = append(p.ifs, clientv3.Compare(clientv3.CreateRevision(root+"live/"+id), ">", 0))
		}
		var err error
		p.next, err = depart(d.current, gone, back, d.pristine)
		return p, err
	})
	if errors.Is(err, errLostRace) { // what it went by has changed, and will be looked at again
		return nil
	}
	if err == nil && revision > 0 {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_, err = m.Wait(ctx, revision)
	}
	return err
}

// isTarget says that a target is a member that is marked as away, or is not.
func isTarget(m api.Map, id string, away bool) bool {
	at := indexOf(m, id)
	return at >= 0 && m.Nodes[at].Role == api.RoleTarget && m.Nodes[at].Away == away
}
