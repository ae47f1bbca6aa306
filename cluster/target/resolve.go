package target

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/core/store"
)

// After the set of targets has changed, an object's primary may be another than the one that took its last write. It
// asks all who may have a copy then, before it answers: resolving. Two rules make what it answers last. Whoever was
// primary under an earlier map, and is not known to be down, has to say that it goes by the new one: it might still
// show, or take in, something else. And what is the newest has to be on all targets of one list, that of today or an
// earlier one, before it is shown: a write that was broken off may be on a single one, and would be gone with it.

const (
	resolveTimeout = 6 * time.Second // for one answer; longer than lockPatience
	// giveTimeout and slowBytes (see there) bound how long a copy may take.
	giveTimeout = time.Minute
	// pullBytes is the size up to which a primary gets itself a copy before it answers; readers are sent to a holder
	// of larger ones, which heal brings here in time.
	pullBytes = 1 << 20
	// maxCertain bounds the names that a primary remembers to have resolved.
	maxCertain = 1 << 17
)

// certainty remembers which objects were resolved under the present map: what this node has of them is the newest.
type certainty struct {
	mu      sync.Mutex
	version int64
	keys    map[string]struct{}
}

func (c *certainty) has(version int64, about string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.keys[about]
	return ok && c.version == version
}

func (c *certainty) add(version int64, about string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version > version {
		return
	}
	if c.version != version || len(c.keys) >= maxCertain {
		c.version, c.keys = version, map[string]struct{}{}
	}
	c.keys[about] = struct{}{}
}

// finding is what resolving an object came to.
type finding struct {
	newest  copies.State // Version 0: there was none ever, as far as is known
	here    bool         // this node has it
	holders []api.Node   // others that have it
}

// plan is where an object's copies are, and may be.
func (p *placed) plan() placement.Plan {
	return p.placer.Plan(p.bucket.Name, p.key, p.bucket.Copies(), p.bucket.Was...)
}

// newest finds what the newest version of an object is that this node is the primary of. The caller does not hold the
// object's lock.
func (t *Target) newest(ctx context.Context, p placed) (finding, error) {
	if f, ok, err := t.atHand(p); ok || err != nil {
		return f, err
	}
	unlock, err := t.locks.lock(ctx, p.bucket.Name, p.key)
	if err != nil {
		return finding{}, err
	}
	defer unlock()
	return t.newestLocked(ctx, p)
}

// newestLocked is newest for a caller that holds the object's lock.
func (t *Target) newestLocked(ctx context.Context, p placed) (finding, error) {
	if f, ok, err := t.atHand(p); ok || err != nil {
		return f, err
	}
	return t.resolve(ctx, p, p.plan(), nil)
}

// certain says that what this node has of an object is the newest, as it was its primary all along or has resolved it.
func (t *Target) isCertain(p *placed) bool {
	if p.settled() || t.certain.has(p.version, p.about()) {
		return true
	}
	plan := p.plan()
	return plan.Steady
}

// atHand answers without asking anybody, where that is possible.
func (t *Target) atHand(p placed) (finding, bool, error) {
	if !t.isCertain(&p) {
		return finding{}, false, nil
	}
	own, err := t.own(p.bucket.Name, p.key)
	if err == nil && own.Unknown {
		err = store.ErrDiskFailed
	}
	return finding{newest: own, here: true}, true, err
}

// takeOver makes sure that nobody else is primary of an object any more: enough for a write to which it does not matter
// what was there. The caller holds the object's lock.
func (t *Target) takeOver(ctx context.Context, p placed) error {
	if t.isCertain(&p) {
		return nil
	}
	r := &round{t: t, p: p, plan: p.plan(), client: t.copies.With(p.version)}
	r.ask(ctx)
	return r.fenced()
}

// round is one round of asking.
type round struct {
	t      *Target
	p      placed
	plan   placement.Plan
	states map[string]copies.State // by target; who has not answered is not in it
	client *copies.Client
}

// resolve finds the newest version of an object, makes sure that it is on all of a list, and gets it here where it is
// small, or offered. The caller holds the object's lock.
func (t *Target) resolve(ctx context.Context, p placed, plan placement.Plan, offered *arrival) (finding, error) {
	r := &round{t: t, p: p, plan: plan, states: map[string]copies.State{}, client: t.copies.With(p.version)}
	own, err := t.own(p.bucket.Name, p.key)
	if err != nil {
		return finding{}, err
	}
	if !own.Unknown {
		r.states[t.id] = own
	}
	r.ask(ctx)
	if offered != nil && offered.sender != t.id && r.states[offered.sender].Version <= offered.state.Version {
		r.states[offered.sender] = offered.state
	}
	newest, err := r.judge()
	if err != nil {
		return finding{}, err
	}
	f := finding{newest: newest}
	if newest.Version == 0 {
		t.certain.add(p.version, p.about())
		f.here = true
		return f, nil
	}
	f.holders = r.holders(newest.Version)
	list, err := r.list(newest.Version)
	if err != nil {
		return f, err
	}
	if err := r.give(ctx, list, newest, f.holders); err != nil {
		return f, err
	}
	switch {
	case r.has(t.id, newest.Version), newest.Kind == store.Lost: // nobody can give the bytes of one that is lost
	case offered != nil && offered.state.Version == newest.Version:
		err = t.commitAt(p, p.version, offered.commit)
	case slices.Contains(list, t.id) || newest.Kind != store.Whole || newest.Data > 0 || newest.Size <= pullBytes:
		err = r.pull(ctx, newest, f.holders)
	default:
		return f, nil
	}
	if err == nil {
		f.here = true
		t.certain.add(p.version, p.about())
	}
	return f, err
}

// adopt takes in a copy as its primary.
func (t *Target) adopt(ctx context.Context, p placed, a arrival) error {
	f, err := t.resolve(ctx, p, p.plan(), &a)
	if err == nil && f.newest.Version != a.state.Version {
		err = api.Errorf(http.StatusConflict, api.CodeSuperseded, "%s is there in version %d", api.Address(a.bucket, a.key), f.newest.Version)
	}
	return err
}

// ask asks all others that are up.
func (r *round) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	if r.states == nil {
		r.states = map[string]copies.State{}
	}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, id := range r.plan.Ask(r.t.id) {
		node, ok := r.p.placer.Node(id)
		if !ok || node.State != api.StateOK {
			continue
		}
		wait.Go(func() {
			up, cancel := r.t.whileUp(ctx, []api.Node{node})
			defer cancel()
			state, err := r.client.Settled(up, node, r.p.bucket.Name, r.p.key)
			if err != nil || state.Unknown {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			r.states[id] = state
		})
	}
	wait.Wait()
}

// fenced makes sure that all who may have been primary until now know that they are not.
func (r *round) fenced() error {
	// Where objects had one copy, their owner answers without a lease: that it is away does not keep it from that.
	unleased := r.p.bucket.Copies() == 1 || slices.Contains(r.p.bucket.Was, 1)
	for _, list := range r.plan.Former {
		if len(list) == 0 || list[0] == r.t.id {
			continue
		}
		node, member := r.p.placer.Node(list[0])
		if _, answered := r.states[list[0]]; member && (unleased || !node.Away) && !answered {
			return r.unsure(list[:1])
		}
	}
	return nil
}

// judge draws the conclusion from the answers.
func (r *round) judge() (copies.State, error) {
	if err := r.fenced(); err != nil {
		return copies.State{}, err
	}
	versions := make(map[string]uint64, len(r.states))
	for id, s := range r.states {
		versions[id] = s.Version
	}
	verdict := r.plan.Judge(versions, placement.EpochOf)
	if !verdict.Certain {
		return copies.State{}, r.unsure(slices.Concat(append(r.plan.Former, r.plan.Copies)...))
	}
	newest := copies.State{}
	for _, s := range r.states {
		if s.Version > newest.Version || s.Version == newest.Version && more(s.Kind, newest.Kind) {
			newest = s
		}
	}
	return newest, nil
}

// unsure says who did not answer that should have.
func (r *round) unsure(ids []string) error {
	var silent []string
	for _, id := range ids {
		if _, answered := r.states[id]; !answered && !slices.Contains(silent, id) {
			silent = append(silent, id)
		}
	}
	return unavailable("%v may have a newer version of %s and did not answer; it is there again when one of them is",
		silent, api.Address(r.p.bucket.Name, r.p.key))
}

// has says that a target has a version, and more of it than the memory of a copy that is lost.
func (r *round) has(id string, version uint64) bool {
	return r.states[id].Version == version && r.states[id].Kind != store.Lost
}

// holders are the others that have a version.
func (r *round) holders(version uint64) []api.Node {
	var holders []api.Node
	for id := range r.states {
		if node, ok := r.p.placer.Node(id); ok && id != r.t.id && r.has(id, version) {
			holders = append(holders, node)
		}
	}
	slices.SortFunc(holders, func(a, b api.Node) int { // those that can give the bytes come first
		return int(r.states[a.ID].Kind) - int(r.states[b.ID].Kind)
	})
	return holders
}

// list is the list that takes the least for all of it to have the newest version.
func (r *round) list(version uint64) ([]string, error) {
	var best []string
	least := -1
	for _, list := range append([][]string{r.plan.Copies}, r.plan.Former...) {
		lacking := 0
		for _, id := range list {
			if _, answered := r.states[id]; !answered {
				lacking = -1
				break
			}
			if !r.has(id, version) {
				lacking++
			}
		}
		if len(list) > 0 && lacking >= 0 && (least < 0 || lacking < least) {
			best, least = list, lacking
		}
	}
	if least < 0 {
		return nil, r.unsure(r.plan.Copies)
	}
	return best, nil
}

// give gives the newest version to those of a list, but this node, that lack it.
func (r *round) give(ctx context.Context, list []string, newest copies.State, holders []api.Node) error {
	ctx, cancel := context.WithTimeout(ctx, giveTimeout+time.Duration(newest.Size/slowBytes)*time.Second)
	defer cancel()
	var errs []error
	for _, id := range list {
		node, ok := r.p.placer.Node(id)
		if id == r.t.id || r.has(id, newest.Version) || newest.Kind == store.Lost {
			continue
		}
		if !ok {
			return r.unsure(list)
		}
		if newest.Kind == store.Tombstone {
			errs = append(errs, r.client.Bury(ctx, node, r.p.bucket.Name, r.p.key, newest.Version))
			continue
		}
		errs = append(errs, r.giveCopy(ctx, node, newest, holders))
	}
	if err := errors.Join(errs...); err != nil {
		return unavailable("%s could not be copied: %v", api.Address(r.p.bucket.Name, r.p.key), err)
	}
	return nil
}

// giveCopy sends this node's copy, or that of another holder.
func (r *round) giveCopy(ctx context.Context, node api.Node, newest copies.State, holders []api.Node) error {
	err := error(store.ErrNotFound)
	if r.has(r.t.id, newest.Version) {
		if err = r.t.sendCopy(ctx, r.client, node, r.p.bucket.Name, r.p.key, newest.Version); err == nil {
			return nil
		}
	}
	for _, holder := range holders {
		info, body, fetched := r.client.Fetch(ctx, holder, r.p.bucket.Name, r.p.key, newest.Version)
		if fetched != nil {
			err = fetched
			continue
		}
		err = r.client.Put(ctx, node, info, body)
		_ = body.Close()
		if err == nil {
			return nil
		}
	}
	return err
}

// sendCopy gives another target this node's copy of a version.
func (t *Target) sendCopy(ctx context.Context, client *copies.Client, node api.Node, bucket, key string, version uint64) error {
	info, index, object, err := t.holding(bucket, key, version)
	if err != nil {
		return err
	}
	if object == nil {
		return client.Put(ctx, node, info, bytes.NewReader(index))
	}
	defer object.Close()
	return client.Put(ctx, node, info, bodyOf(object))
}

// pull gets the newest version here.
func (r *round) pull(ctx context.Context, newest copies.State, holders []api.Node) error {
	t := r.t
	if newest.Kind == store.Tombstone {
		return t.commitAt(r.p, r.p.version, func() error { return t.bury(ctx, r.p.bucket.Name, r.p.key, newest.Version) })
	}
	ctx, cancel := context.WithTimeout(ctx, giveTimeout+time.Duration(newest.Size/slowBytes)*time.Second)
	defer cancel()
	staged, err := t.fetch(ctx, r.client, r.p.bucket.Name, r.p.key, newest.Version, holders)
	if err != nil {
		return err
	}
	defer staged.Discard() //nolint:errcheck // after a commit it does nothing; else what is left is swept
	info := staged.Info()
	return t.commitAt(r.p, r.p.version, func() error { return t.commitStaged(staged, newest.Version, info.Created) })
}

// fetch stages the first good copy of a version that one of its holders gives.
func (t *Target) fetch(ctx context.Context, client *copies.Client, bucket, key string, version uint64, holders []api.Node) (*store.Staged, error) {
	err := error(unavailable("nobody has version %d of %s", version, api.Address(bucket, key)))
	for _, holder := range holders {
		info, body, fetched := client.Fetch(ctx, holder, bucket, key, version)
		if fetched != nil {
			err = fetched
			continue
		}
		var staged *store.Staged
		staged, err = t.stageCopy(ctx, info, body)
		_ = body.Close()
		if err == nil {
			return staged, nil
		}
	}
	return nil, err
}
