package slices_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/heal"
	sliced "github.com/shardstream/shardstream/cluster/slices"
	"github.com/shardstream/shardstream/core/store"
)

// machines are targets with stores of their own, and a wire between them.
type machines struct {
	t       *testing.T
	ids     []string
	stores  map[string]*store.Store
	keepers map[string]*sliced.Keeper
	opened  atomic.Int64 // slices of other targets that were read

	mu     sync.Mutex
	m      api.Map
	staged map[string]*store.Staged
}

const grace = 50 * time.Millisecond

func newMachines(t *testing.T, n int) *machines {
	t.Helper()
	c := &machines{t: t, stores: map[string]*store.Store{}, keepers: map[string]*sliced.Keeper{}, staged: map[string]*store.Staged{}}
	c.m.Version, c.m.Since = 1, 1
	var gate heal.Gate
	for i := range n {
		id := fmt.Sprintf("t%d", i+1)
		dir := t.TempDir()
		s, err := store.Open(store.Options{Disks: []store.Disk{{ID: id, Path: dir}}})
		require.NoError(t, err)
		log, err := audit.Open(filepath.Join(t.TempDir(), "audit"), id)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, errors.Join(s.Close(), log.Close())) })
		c.ids, c.stores[id] = append(c.ids, id), s
		c.m.Nodes = append(c.m.Nodes, api.Node{ID: id, Role: api.RoleTarget, State: api.StateOK})
		c.keepers[id] = sliced.New(sliced.Config{
			Self: id, Store: s, Wire: &wire{c, id}, State: c.state, Logger: slog.New(slog.DiscardHandler),
			Deletes: &heal.Deletes{
				Drop: s.Drop, DropSlice: s.DropSlice, Log: log, Leased: func() bool { return true }, Gate: &gate,
				Version: func() int64 { return c.state().Placer.Map.Version },
			},
			DeleteGrace: grace, StrayGrace: 2 * grace,
		})
	}
	return c
}

func (c *machines) state() heal.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.m
	m.Nodes = append([]api.Node(nil), c.m.Nodes...)
	return heal.State{
		Placer:  api.NewPlacer(m),
		Buckets: []heal.Bucket{{Bucket: api.Bucket{Name: "bucket", EC: &api.EC{Data: 4, Parity: 2}}}},
	}
}

// lose makes a new map, in which these targets are away.
func (c *machines) lose(ids ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.Version++
	c.m.Since = c.m.Version
	for i := range c.m.Nodes {
		n := &c.m.Nodes[i]
		n.Away, n.State = false, api.StateOK
		for _, id := range ids {
			if n.ID == id {
				n.Away, n.State = true, api.StateDown
			}
		}
	}
}

// write puts an object into slices, by its primary, and its description where it is to be.
func (c *machines) write(name string, data []byte, version uint64) store.Info {
	c.t.Helper()
	p := c.state().Placer
	list := sliced.List(p, "bucket", name, 6)
	to := make([]*api.Node, 6)
	for i := range list {
		to[i] = &list[i]
	}
	i := store.Info{Bucket: "bucket", Name: name, Size: int64(len(data)), Data: 4, Parity: 2}
	w, err := c.keepers[list[0].ID].Begin(c.t.Context(), i, to, 6)
	require.NoError(c.t, err)
	staged, err := c.stores[list[0].ID].Stage(c.t.Context(), "bucket", name, io.TeeReader(bytes.NewReader(data), w),
		store.PutOptions{Size: -1, Data: 4, Parity: 2})
	require.NoError(c.t, err)
	require.NoError(c.t, w.Stage())
	now := time.Now()
	require.NoError(c.t, w.Commit(c.t.Context(), version, now))
	require.Equal(c.t, 6, w.Written())
	i, err = staged.Commit(version, now, store.Condition{})
	require.NoError(c.t, err)
	for _, n := range list[1:3] {
		_, err := c.stores[n.ID].PutStub(c.t.Context(), i, nil, store.Condition{})
		require.NoError(c.t, err)
	}
	return i
}

// count is how many slices of an object are on how many targets.
func (c *machines) count(name string, version uint64) (slices, targets int) {
	for _, s := range c.stores {
		infos, err := s.HaveSlices("bucket", name, version)
		require.NoError(c.t, err)
		slices += len(infos)
		targets += min(len(infos), 1)
	}
	return slices, targets
}

// wire is a target's way to the others.
type wire struct {
	c    *machines
	self string
}

var errCut = errors.New("no route to host")

func (w *wire) to(node api.Node) (*store.Store, error) {
	now, ok := w.c.state().Placer.Node(node.ID)
	if !ok || now.State != api.StateOK {
		return nil, errCut
	}
	return w.c.stores[node.ID], nil
}

func (w *wire) StageSlice(ctx context.Context, node api.Node, stage string, i store.Info, body io.Reader) error {
	s, err := w.to(node)
	if err != nil {
		return err
	}
	staged, err := s.StageSlice(ctx, i.Bucket, i.Name, i.Slice, body, store.PutOptions{Size: i.Size, Data: i.Data, Parity: i.Parity})
	if err != nil {
		return err
	}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.c.staged[stage] = staged
	return nil
}

func (w *wire) CommitSlice(_ context.Context, node api.Node, stage string, version uint64, created time.Time) error {
	if _, err := w.to(node); err != nil {
		return err
	}
	w.c.mu.Lock()
	staged := w.c.staged[stage]
	delete(w.c.staged, stage)
	w.c.mu.Unlock()
	_, err := staged.Commit(version, created, store.Condition{})
	return err
}

func (w *wire) Discard(_ context.Context, _ api.Node, stage string) error {
	w.c.mu.Lock()
	staged := w.c.staged[stage]
	delete(w.c.staged, stage)
	w.c.mu.Unlock()
	if staged == nil {
		return nil
	}
	return staged.Discard()
}

func (w *wire) OpenSlice(_ context.Context, node api.Node, key store.SliceKey, offset int64) (io.ReadCloser, error) {
	s, err := w.to(node)
	if err != nil {
		return nil, err
	}
	object, err := s.OpenSlice(key)
	if err != nil {
		return nil, err
	}
	w.c.opened.Add(1)
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(object, offset, object.Info().Size-offset), object}, nil
}

func (w *wire) HaveSlices(_ context.Context, node api.Node, bucket string, objects []copies.ObjectVersion) ([][]int, error) {
	if _, err := w.to(node); err != nil {
		return nil, err
	}
	out := make([][]int, len(objects))
	for i := range objects {
		var err error
		if out[i], err = w.c.keepers[node.ID].Own(bucket, objects[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (w *wire) Have(_ context.Context, node api.Node, bucket string, names []string) ([]copies.State, error) {
	s, err := w.to(node)
	if err != nil {
		return nil, err
	}
	out := make([]copies.State, len(names))
	for i, name := range names {
		info, ok, err := s.State(bucket, name)
		if err != nil {
			return nil, err
		}
		if ok {
			out[i] = copies.StateOf(info)
		}
	}
	return out, nil
}

func (w *wire) Fetch(_ context.Context, node api.Node, bucket, name string, _ uint64) (store.Info, io.ReadCloser, error) {
	s, err := w.to(node)
	if err != nil {
		return store.Info{}, nil, err
	}
	info, _, err := s.State(bucket, name)
	return info, io.NopCloser(bytes.NewReader(nil)), err
}

func (w *wire) LookAt(_ context.Context, node api.Node, bucket string, names []string) error {
	if _, err := w.to(node); err != nil {
		return err
	}
	w.c.keepers[node.ID].LookAt(bucket, names)
	return nil
}

// read reads an object at its present primary, which has no more than a stub of it.
func (c *machines) read(i store.Info) ([]byte, error) {
	primary := sliced.List(c.state().Placer, i.Bucket, i.Name, 3)[0].ID
	s := c.stores[primary]
	_, err := s.PutStub(c.t.Context(), i, nil, store.Condition{})
	if err != nil && !errors.Is(err, store.ErrSuperseded) {
		return nil, err
	}
	if err := s.Evict(c.t.Context(), i.Bucket, i.Name, i.Version); err != nil {
		return nil, err
	}
	if err := c.keepers[primary].Rebuild(c.t.Context(), i); err != nil {
		return nil, err
	}
	object, err := s.Open(i.Bucket, i.Name)
	if err != nil {
		return nil, err
	}
	defer object.Close()
	data := make([]byte, i.Size)
	_, err = object.ReadAt(data, 0)
	return data, err
}

// TestAnyTwoOfSixAreLost tries all pairs: everything reads without them.
func TestAnyTwoOfSixAreLost(t *testing.T) {
	c := newMachines(t, 6)
	objects := map[string][]byte{"small": random(130_000, 1), "odd": random(1_000_001, 2), "large": random(5<<20, 3)}
	infos := map[string]store.Info{}
	for name, data := range objects {
		infos[name] = c.write(name, data, 10)
	}
	for a := range 6 {
		for b := a + 1; b < 6; b++ {
			c.lose(c.ids[a], c.ids[b])
			for name, data := range objects {
				got, err := c.read(infos[name])
				require.NoError(t, err, "%s without %s and %s", name, c.ids[a], c.ids[b])
				require.True(t, bytes.Equal(data, got), "%s without %s and %s", name, c.ids[a], c.ids[b])
			}
		}
	}
	c.lose(c.ids[0], c.ids[1], c.ids[2])
	_, err := c.read(infos["odd"])
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, api.CodeUnavailable, answer.Code)
}

// TestOneRebuildForAll: however many want an object that is in slices only, it is made once.
func TestOneRebuildForAll(t *testing.T) {
	c := newMachines(t, 6)
	i := c.write("x", random(4<<20, 1), 10)
	primary := sliced.List(c.state().Placer, "bucket", "x", 3)[0].ID
	require.NoError(t, c.stores[primary].Evict(t.Context(), "bucket", "x", 10))
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if err := c.keepers[primary].Rebuild(t.Context(), i); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	require.LessOrEqual(t, c.opened.Load(), int64(4))
	object, err := c.stores[primary].Open("bucket", "x")
	require.NoError(t, err)
	require.NoError(t, errors.Join(object.VerifyRange(0, i.Size), object.Close()))
}

// TestARebuildEndsWithTheTarget: a target that is to stop does not wait for an object that is being made whole.
func TestARebuildEndsWithTheTarget(t *testing.T) {
	c := newMachines(t, 6)
	i := c.write("x", random(4<<20, 1), 10)
	primary := sliced.List(c.state().Placer, "bucket", "x", 3)[0].ID
	require.NoError(t, c.stores[primary].Evict(t.Context(), "bucket", "x", 10))
	asked := make(chan struct{}, 6)
	config := c.keepers[primary].Config
	config.Wire = &hanging{config.Wire, asked}
	k := sliced.New(config)
	ended := make(chan error, 1)
	go func() { ended <- k.Rebuild(t.Context(), i) }()
	<-asked
	k.Close()
	require.Error(t, <-ended)
	require.Error(t, k.Rebuild(t.Context(), i))
	require.NoError(t, c.keepers[primary].Rebuild(t.Context(), i))
}

// hanging is a wire whose slices never come.
type hanging struct {
	sliced.Wire
	asked chan struct{}
}

func (h *hanging) OpenSlice(ctx context.Context, _ api.Node, _ store.SliceKey, _ int64) (io.ReadCloser, error) {
	h.asked <- struct{}{}
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// TestHealMovesAndMakesSlices: what a lost target had is made anew on the one that takes its place, and what a target has
// that is not to have any goes, by proof.
func TestHealMovesAndMakesSlices(t *testing.T) {
	c := newMachines(t, 8)
	data := random(1_500_000, 1)
	i := c.write("x", data, 10)
	list := sliced.List(c.state().Placer, "bucket", "x", 6)
	lost := list[5].ID
	c.lose(lost)
	primary := c.keepers[list[0].ID]
	missing, err := primary.Missing(t.Context(), i)
	require.NoError(t, err)
	require.Equal(t, 1, missing)
	outcome, err := primary.Heal(t.Context(), i)
	require.NoError(t, err)
	require.Equal(t, 1, outcome.Made)
	require.False(t, outcome.Lacking)
	missing, err = primary.Missing(t.Context(), i)
	require.NoError(t, err)
	require.Zero(t, missing)
	slices, targets := c.count("x", 10)
	require.Equal(t, []int{7, 7}, []int{slices, targets}, "with that of the lost one")

	c.lose() // it is back
	require.Eventually(t, func() bool {
		for _, id := range c.ids {
			_, err := c.keepers[id].Sweep(t.Context())
			require.NoError(t, err)
		}
		slices, targets := c.count("x", 10)
		return slices == 6 && targets == 6
	}, 20*time.Second, grace)
	got, err := c.read(i)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
}

// TestSlicesAreKeptWhileInDoubt: none goes before the newer version is everywhere, nor while somebody does not answer.
func TestSlicesAreKeptWhileInDoubt(t *testing.T) {
	c := newMachines(t, 6)
	c.write("x", random(300_000, 1), 10)
	newer := c.write("x", random(200_000, 2), 20)
	list := sliced.List(c.state().Placer, "bucket", "x", 6)
	down := ""
	sweep := func() {
		for range 3 {
			for _, id := range c.ids {
				if id == down {
					continue
				}
				_, err := c.keepers[id].Sweep(t.Context())
				require.NoError(t, err)
			}
			time.Sleep(grace) // the period of grace is over: what is proven now is dropped
		}
	}
	third := c.stores[list[2].ID]
	require.NoError(t, third.Drop(t.Context(), "bucket", "x", 20))
	older := newer
	older.Version = 10
	_, err := third.PutStub(t.Context(), older, nil, store.Condition{})
	require.NoError(t, err)
	sweep()
	slices, _ := c.count("x", 10)
	require.Equal(t, 6, slices, "one target still has the older description")

	_, err = third.PutStub(t.Context(), newer, nil, store.Condition{})
	require.NoError(t, err)
	down = list[1].ID
	c.lose(down)
	c.mu.Lock() // it is down, and the map does not know it yet
	for n := range c.m.Nodes {
		c.m.Nodes[n].Away = false
	}
	c.mu.Unlock()
	sweep()
	slices, _ = c.count("x", 10)
	require.Equal(t, 6, slices, "one target does not answer")
	down = ""
	c.lose()
	sweep()
	slices, _ = c.count("x", 10)
	require.Zero(t, slices)
	slices, _ = c.count("x", 20)
	require.Equal(t, 6, slices)
}

// TestStraysGo: slices of a write that was given up are removed once nobody can know of it any more.
func TestStraysGo(t *testing.T) {
	c := newMachines(t, 6)
	c.write("x", random(300_000, 1), 10)
	p := c.state().Placer
	list := sliced.List(p, "bucket", "x", 6)
	to := make([]*api.Node, 6)
	for i := range list {
		to[i] = &list[i]
	}
	keeper := c.keepers[list[0].ID]
	begin := func(data []byte) *sliced.Writing {
		w, err := keeper.Begin(t.Context(), store.Info{Bucket: "bucket", Name: "x", Size: int64(len(data)), Data: 4, Parity: 2}, to, 6)
		require.NoError(t, err)
		_, err = w.Write(data)
		require.NoError(t, err)
		return w
	}
	given := begin(random(300_000, 2))
	require.NoError(t, given.Stage())
	require.NoError(t, given.Discard(t.Context()))
	broken := begin(random(100_000, 3)) // fewer bytes than were announced
	require.NoError(t, broken.Discard(t.Context()))
	slices, _ := c.count("x", 0)
	require.Equal(t, 6, slices, "nothing that was staged is left")
	require.Empty(t, c.staged)

	stray := begin(random(300_000, 4))
	require.NoError(t, stray.Stage())
	require.NoError(t, stray.Commit(t.Context(), 30, time.Now()))
	slices, _ = c.count("x", 30)
	require.Equal(t, 6, slices)
	require.Eventually(t, func() bool {
		for _, id := range c.ids {
			_, err := c.keepers[id].Sweep(t.Context())
			require.NoError(t, err)
		}
		slices, _ := c.count("x", 30)
		return slices == 0
	}, 20*time.Second, grace)
	slices, _ = c.count("x", 10)
	require.Equal(t, 6, slices)
}

// TestAYoungStrayIsNotInTheWay: slices of a write that may go on are kept, and those that are of no use go all the same.
func TestAYoungStrayIsNotInTheWay(t *testing.T) {
	c := newMachines(t, 6)
	c.write("x", random(300_000, 1), 10)
	c.write("x", random(300_000, 2), 20)
	for _, id := range c.ids { // as of a write that stands before its last step
		_, err := c.stores[id].PutSlice(t.Context(), store.SliceKey{Bucket: "bucket", Name: "x", Version: 30}, strings.NewReader("young"),
			store.PutOptions{Size: 5, Data: 4, Parity: 2, Created: time.Now().Add(time.Hour)})
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		left := 0
		for _, id := range c.ids {
			misplaced, err := c.keepers[id].Sweep(t.Context())
			require.NoError(t, err)
			left += misplaced
		}
		slices, _ := c.count("x", 10)
		return slices == 0 && left == 0
	}, 20*time.Second, grace)
	slices, _ := c.count("x", 30)
	require.Equal(t, 6, slices)
}

// TestEvictNeedsAllSlices: the whole copy stays while slices are lacking.
func TestEvictNeedsAllSlices(t *testing.T) {
	c := newMachines(t, 7)
	i := c.write("x", random(300_000, 1), 10)
	list := sliced.List(c.state().Placer, "bucket", "x", 6)
	primary := c.keepers[list[0].ID]
	own, err := primary.Own("bucket", copies.ObjectVersion{Name: "x", Version: 10})
	require.NoError(t, err)
	require.Len(t, own, 1)
	require.NoError(t, c.stores[list[0].ID].DropSlice(t.Context(), store.SliceKey{Bucket: "bucket", Name: "x", Version: 10, Slice: own[0]}))
	done, err := primary.Evict(t.Context(), "bucket", "")
	require.NoError(t, err)
	require.Equal(t, api.Evicted{Kept: 1}, done)
	_, err = primary.Heal(t.Context(), i)
	require.NoError(t, err)
	done, err = primary.Evict(t.Context(), "bucket", "")
	require.NoError(t, err)
	require.Equal(t, api.Evicted{Objects: 1, Bytes: i.Size}, done)
}

// TestEvictionAboveTheWatermark: what is read least makes room where a disk fills up.
func TestEvictionAboveTheWatermark(t *testing.T) {
	c := newMachines(t, 6)
	i := c.write("x", random(300_000, 1), 10)
	list := sliced.List(c.state().Placer, "bucket", "x", 6)
	s := c.stores[list[0].ID]
	config := c.keepers[list[0].ID].Config
	config.EvictAbove = 1e-12 // any disk is fuller
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- sliced.New(config).Run(ctx) }()
	require.Eventually(t, func() bool {
		info, err := s.Stat("bucket", "x")
		require.NoError(t, err)
		return info.Kind == store.Stub
	}, 20*time.Second, grace)
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, c.keepers[list[0].ID].Rebuild(t.Context(), i))
}
