package heal_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/core/store"
)

const waitTimeout = 20 * time.Second

// fakeStore is a target's store in memory.
type fakeStore struct {
	mu   sync.Mutex
	objs map[string]map[string]store.Info // by bucket, name
}

func (f *fakeStore) ListAll(bucket, _, startAfter string, limit int) ([]store.Info, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var infos []store.Info
	for _, name := range slices.Sorted(maps.Keys(f.objs[bucket])) {
		if name <= startAfter {
			continue
		}
		if len(infos) == limit {
			return infos, true, nil
		}
		infos = append(infos, f.objs[bucket][name])
	}
	return infos, false, nil
}

func (f *fakeStore) State(bucket, name string) (store.Info, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, ok := f.objs[bucket][name]
	return info, ok, nil
}

func (f *fakeStore) put(info store.Info) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objs[info.Bucket] == nil {
		f.objs[info.Bucket] = map[string]store.Info{}
	}
	if f.objs[info.Bucket][info.Name].Version < info.Version {
		f.objs[info.Bucket][info.Name] = info
	}
}

func (f *fakeStore) drop(bucket, name string, version uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objs[bucket][name].Version == version {
		delete(f.objs[bucket], name)
	}
}

func (f *fakeStore) count() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.objs {
		n += len(b)
	}
	return n
}

// memoryBoard is a board that all targets share.
type memoryBoard struct {
	mu      sync.Mutex
	reports map[string]heal.Report
	control heal.Control
}

type boardOf struct {
	*memoryBoard
	id string
}

func (b boardOf) Write(_ context.Context, r heal.Report) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reports[b.id] = r
	return nil
}

func (b boardOf) Read(context.Context) (heal.Report, bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.reports[b.id]
	return r, ok, nil
}

func (b boardOf) Control() heal.Control {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.control
}

// world is a cluster of healers over fakes.
type world struct {
	t     *testing.T
	dir   string
	board *memoryBoard

	mu      sync.Mutex
	m       api.Map
	buckets []heal.Bucket
	silent  map[string]bool // targets that don't answer
	placer  *api.Placer
	stores  map[string]*fakeStore
	stop    map[string]func()
	drops   []string
	pushed  int
	onPush  func(ctx context.Context)
}

func newWorld(t *testing.T, targets int, buckets ...api.Bucket) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir(), board: &memoryBoard{reports: map[string]heal.Report{}}, m: api.Map{Version: 1, Since: 1},
		silent: map[string]bool{}, stores: map[string]*fakeStore{}, stop: map[string]func(){},
	}
	for i, b := range buckets {
		w.buckets = append(w.buckets, heal.Bucket{Bucket: b, Identity: int64(i + 1)})
	}
	for i := range targets {
		id := fmt.Sprintf("t%d", i+1)
		w.m.Nodes = append(w.m.Nodes, api.Node{ID: id, Role: api.RoleTarget, State: api.StateOK, Weight: 1})
		w.stores[id] = &fakeStore{objs: map[string]map[string]store.Info{}}
	}
	t.Cleanup(func() {
		for _, stop := range w.stop {
			stop()
		}
	})
	return w
}

// edit changes the set of targets as the membership does.
func (w *world) edit(change func(m *api.Map)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	past := api.Epoch{Version: w.m.Since}
	for _, n := range w.m.Targets() {
		past.Targets = append(past.Targets, api.Member{ID: n.ID, Weight: n.Weight, Away: n.Away, Draining: n.Draining})
	}
	w.m.Nodes = slices.Clone(w.m.Nodes)
	change(&w.m)
	w.m.Version++
	w.m.Since = w.m.Version
	w.m.Former = append([]api.Epoch{past}, w.m.Former...)
	w.placer = nil
}

func (w *world) node(id string, change func(n *api.Node)) {
	w.edit(func(m *api.Map) {
		for i := range m.Nodes {
			if m.Nodes[i].ID == id {
				change(&m.Nodes[i])
			}
		}
	})
}

func (w *world) join(id string) {
	w.mu.Lock()
	w.stores[id] = &fakeStore{objs: map[string]map[string]store.Info{}}
	w.mu.Unlock()
	w.edit(func(m *api.Map) {
		m.Nodes = append(m.Nodes, api.Node{ID: id, Role: api.RoleTarget, State: api.StateOK, Weight: 1})
	})
}

func (w *world) state(round int64) heal.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.placer == nil {
		w.placer = api.NewPlacer(w.m)
	}
	return heal.State{Placer: w.placer, Buckets: slices.Clone(w.buckets), Round: round}
}

// now is the cluster as those see it who know what people want.
func (w *world) now() heal.State { return w.state(boardOf{w.board, ""}.Control().Round) }

func (w *world) version() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m.Version
}

// run starts a target's healer; it ends with the test, or by kill.
func (w *world) run(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		log, err := audit.Open(w.dir+"/"+id, id)
		require.NoError(w.t, err)
		gate := &heal.Gate{}
		s := w.stores[id]
		h := heal.New(heal.Config{
			Self: id, Store: s, Peers: peersOf{w, id}, Board: boardOf{w.board, id}, Gate: gate,
			State: w.state, Leased: func() bool { return true }, Logger: slog.New(slog.DiscardHandler),
			HealAfter: time.Millisecond, DeleteGrace: 5 * time.Millisecond, TombstoneGrace: time.Hour, Tick: time.Millisecond,
			Deletes: &heal.Deletes{
				Log: log, Gate: gate, Version: w.version, Leased: func() bool { return true },
				Drop: func(_ context.Context, bucket, name string, version uint64) error {
					w.mu.Lock()
					w.drops = append(w.drops, id+" "+bucket+"/"+name)
					w.mu.Unlock()
					s.drop(bucket, name, version)
					return nil
				},
			},
		})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = h.Run(ctx) }() // ends with cancel
		w.stop[id] = sync.OnceFunc(func() { cancel(); <-done; _ = log.Close() })
	}
}

func (w *world) kill(id string) { w.stop[id]() }

type peersOf struct {
	w    *world
	self string
}

var errSilent = errors.New("no answer")

func (p peersOf) reach(id string, version int64) (*fakeStore, error) {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.w.silent[id] || version != p.w.m.Version {
		return nil, errSilent
	}
	return p.w.stores[id], nil
}

func (p peersOf) Have(_ context.Context, version int64, node api.Node, bucket string, names []string) ([]*heal.Answer, error) {
	s, err := p.reach(node.ID, version)
	if err != nil {
		return nil, err
	}
	answers := make([]*heal.Answer, len(names))
	for i, name := range names {
		info, _, _ := s.State(bucket, name)
		answers[i] = &heal.Answer{Version: info.Version}
	}
	return answers, nil
}

func (p peersOf) Push(ctx context.Context, version int64, node api.Node, info store.Info) (int64, error) {
	s, err := p.reach(node.ID, version)
	if err != nil {
		return 0, err
	}
	p.w.mu.Lock()
	p.w.pushed++
	hook := p.w.onPush
	p.w.mu.Unlock()
	if hook != nil {
		hook(ctx)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.put(info)
	return info.Size, nil
}

// fill puts objects where the present set has them.
func (w *world) fill(bucket string, n int) {
	s := w.state(0)
	for i := range n {
		w.write(s, store.Info{Bucket: bucket, Name: fmt.Sprintf("%04d", i), Version: uint64(1000 + i), Size: 10, Created: time.Now()})
	}
}

func (w *world) write(s heal.State, info store.Info) {
	for _, id := range s.Placer.Plan(info.Bucket, info.Name, w.copies(info.Bucket)).Copies {
		w.stores[id].put(info)
	}
}

func (w *world) copies(bucket string) int {
	for _, b := range w.buckets {
		if b.Name == bucket {
			return b.Copies()
		}
	}
	w.t.Fatalf("no bucket %s", bucket)
	return 0
}

// placed says that each object is where the present set has it, and nowhere else among those that are up.
func (w *world) placed(bucket string, n int) error {
	s := w.state(0)
	for i := range n {
		name := fmt.Sprintf("%04d", i)
		want := s.Placer.Plan(bucket, name, w.copies(bucket)).Copies
		for id, st := range w.stores {
			node, member := s.Placer.Node(id)
			if !member || node.Away {
				continue
			}
			_, has, _ := st.State(bucket, name)
			if has != slices.Contains(want, id) {
				return fmt.Errorf("%s is to be on %v; on %s it is: %v", name, want, id, has)
			}
		}
	}
	return nil
}

func (w *world) reports() map[string]heal.Report {
	w.board.mu.Lock()
	defer w.board.mu.Unlock()
	return maps.Clone(w.board.reports)
}

// settle waits until a leader would, and has the earlier sets forgotten.
func (w *world) settle() {
	w.t.Helper()
	var reasons []string
	require.Eventually(w.t, func() bool {
		reasons = heal.Unsettled(w.now(), w.reports())
		return len(reasons) == 0
	}, waitTimeout, time.Millisecond, "unsettled: %v", &reasons)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.m.Version++
	w.m.Former = nil
	w.m.Nodes = slices.Clone(w.m.Nodes)
	for i := range w.m.Nodes {
		w.m.Nodes[i].Bare = false
	}
	w.placer = nil
}
