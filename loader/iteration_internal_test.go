package loader

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

// alone is a cluster that has gone away.
type alone struct{}

var errGone = errors.New("nobody answers")

func (alone) OpenStream(context.Context, api.StreamRequest) (api.StreamInfo, error) {
	return api.StreamInfo{}, errGone
}

func (alone) RefreshMap(context.Context) (*api.Placer, error) { return nil, errGone }

// deserted is an iteration of one batch of one sample, with a target at an address where nobody listens.
func deserted(t *testing.T) (*iteration, *puller) {
	t.Helper()
	l, err := New(Config{Sources: []string{"ss://b/"}, BatchSize: 1, Shuffle: "none", Timeout: 100 * time.Millisecond}, alone{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	r := Run{World: 1, Workers: 1}
	it := &iteration{
		l: l, run: r, view: l.view(r), batches: 1, window: map[int64]*batch{}, group: &errgroup.Group{}, cancel: func() {}, done: make(chan struct{}),
		whole: make(chan struct{}), quiet: make(chan struct{}), asked: map[*puller]struct{}{},
	}
	it.view.Samples = 1
	it.cond = sync.NewCond(&it.mu)
	p := newPuller(it, api.Node{ID: "t", Addr: "127.0.0.1:1"}, "")
	it.pullers = []*puller{p}
	return it, p
}

// TestATargetThatIsGoneIsNamed: where nobody has what a target that is gone should have sent, the error is about it.
func TestATargetThatIsGoneIsNamed(t *testing.T) {
	it, p := deserted(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	it.group, ctx = errgroup.WithContext(ctx)
	it.pulling = 1
	it.spawn(ctx, p)
	require.ErrorContains(t, it.group.Wait(), "no progress from t")
}

// TestARepairIsNotTheLast: a repair that finds the missing place being filled ends; where that comes to
// nothing, there is another.
func TestARepairIsNotTheLast(t *testing.T) {
	it, p := deserted(t)
	p.progress.Store(1)
	s, err := it.l.arena.take(true)
	require.NoError(t, err)
	b := &batch{}
	b.reset(0, it.view.Batch(0), s, 0)
	it.window[0], it.assign = b, 1
	f := &wire.Batch{Samples: []wire.Sample{{Slot: 0}}}
	dst, claimed, err := b.place(f, nil)
	require.NoError(t, err)
	require.True(t, claimed)

	it.checkHoles(t.Context())
	it.mu.Lock()
	it.repairLocked(t.Context(), 0)
	it.mu.Unlock()
	require.NoError(t, it.group.Wait(), "nothing is missing that nobody fills")
	b.unclaim(f, dst)
	it.checkHoles(t.Context())
	require.ErrorContains(t, it.group.Wait(), "did not arrive")
}

// TestEpochsReadAheadAreLetGo: what was read ahead of an epoch that nobody asked for is gone with it, not a
// minute later.
func TestEpochsReadAheadAreLetGo(t *testing.T) {
	it, _ := deserted(t)
	close(it.done)
	l := it.l
	l.cfg.ReadAhead, l.run = true, it
	l.lookAhead(it)
	l.mu.Lock()
	ahead := weak.Make(l.next)
	l.mu.Unlock()
	require.NotNil(t, ahead.Value())
	require.NoError(t, l.Start(Run{Epoch: 7}))
	require.Eventually(t, func() bool {
		runtime.GC()
		return ahead.Value() == nil
	}, 10*time.Second, time.Millisecond)
}

// back is a cluster whose gateway opens streams again.
type back struct {
	alone
	opened int
}

func (b *back) OpenStream(context.Context, api.StreamRequest) (api.StreamInfo, error) {
	b.opened++
	return api.StreamInfo{}, nil
}

// TestSnapshotsAreMadeAgain: a snapshot that is gone, or that lacks a page, is no reason to end.
func TestSnapshotsAreMadeAgain(t *testing.T) {
	for _, code := range []string{api.CodeNoSnapshot, api.CodeMissingPages} {
		it, _ := deserted(t)
		gateway := &back{}
		it.l.control = gateway
		require.NoError(t, it.mend(t.Context(), api.Errorf(409, code, "it is not all here")), code)
		require.Equal(t, 1, gateway.opened, code)
	}
}
