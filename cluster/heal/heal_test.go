package heal_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/core/store"
)

const objects = 300

func name(i int) string { return fmt.Sprintf("%04d", i) }

var (
	single   = api.Bucket{Name: "single", Mirror: 1}
	mirrored = api.Bucket{Name: "mirrored", Mirror: 2}
)

func TestEveryObjectMovesToWhereANewSetHasIt(t *testing.T) {
	changes := map[string]func(w *world){
		"a target joins":    func(w *world) { w.join("t5"); w.run("t5") },
		"a target drains":   func(w *world) { w.node("t2", func(n *api.Node) { n.Draining = true }) },
		"two changes":       func(w *world) { w.join("t5"); w.run("t5"); w.node("t1", func(n *api.Node) { n.Draining = true }) },
		"nothing, by hand":  func(w *world) { w.board.mu.Lock(); w.board.control.Round++; w.board.mu.Unlock() },
		"a bucket has more": func(w *world) { w.redundancy("single", 3) },
		"a bucket has less": func(w *world) { w.redundancy("mirrored", 1) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 4, single, mirrored)
			w.fill("single", objects)
			w.fill("mirrored", objects)
			w.run("t1", "t2", "t3", "t4")
			change(w)
			w.settle()
			require.NoError(t, w.placed("single", objects))
			require.NoError(t, w.placed("mirrored", objects))
		})
	}
}

func (w *world) redundancy(bucket string, mirror int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.buckets {
		if b := &w.buckets[i]; b.Name == bucket {
			b.Was, b.Mirror = []int{b.Copies()}, mirror
		}
	}
	w.m.Version++
	w.placer = nil
}

func TestALostTargetIsMadeUpFor(t *testing.T) {
	w := newWorld(t, 4, mirrored)
	w.fill("mirrored", objects)
	w.run("t1", "t2", "t3")
	w.node("t4", func(n *api.Node) { n.Away, n.State = true, api.StateDown })
	w.settle()
	require.NoError(t, w.placed("mirrored", objects))
}

func TestAWipedTargetIsFilledAgain(t *testing.T) {
	w := newWorld(t, 4, mirrored)
	w.fill("mirrored", objects)
	w.stores["t4"].mu.Lock()
	w.stores["t4"].objs = map[string]map[string]store.Info{}
	w.stores["t4"].mu.Unlock()
	w.node("t4", func(n *api.Node) { n.Bare = true })
	w.run("t1", "t2", "t3", "t4")
	w.settle()
	require.NoError(t, w.placed("mirrored", objects))
}

// A pass that is broken off again and again, each time somewhere else, leaves nothing that hinders the next.
func TestAPassThatIsKilledFiveTimesIsFinishedByTheNext(t *testing.T) {
	w := newWorld(t, 3, single, mirrored)
	w.fill("single", objects)
	w.fill("mirrored", objects)
	w.join("t4")
	ids := []string{"t1", "t2", "t3", "t4"}
	for range 5 {
		reached := make(chan struct{})
		var once sync.Once
		w.mu.Lock()
		stopAt := w.pushed + 20
		w.onPush = func(ctx context.Context) {
			w.mu.Lock()
			enough := w.pushed >= stopAt
			w.mu.Unlock()
			if enough { // until it is killed
				once.Do(func() { close(reached) })
				<-ctx.Done()
			}
		}
		w.mu.Unlock()
		w.run(ids...)
		select {
		case <-reached:
		case <-time.After(waitTimeout):
			t.Fatalf("the pass came to a stop by itself: %+v", w.reports())
		}
		for _, id := range ids {
			w.kill(id)
		}
	}
	w.onPush = nil
	w.run(ids...)
	w.settle()
	require.NoError(t, w.placed("single", objects))
	require.NoError(t, w.placed("mirrored", objects))
}

// Targets come back one by one, slowly. Whatever is unsure is kept: not one copy goes that is needed.
func TestNothingIsDeletedWhileTargetsComeBackOneByOne(t *testing.T) {
	w := newWorld(t, 4, single, mirrored)
	w.fill("single", objects)
	w.fill("mirrored", objects)
	ids := []string{"t1", "t2", "t3", "t4"}
	for _, id := range ids[1:] {
		w.node(id, func(n *api.Node) { n.Away, n.State = true, api.StateDown })
	}
	for i, id := range ids {
		if i > 0 {
			w.node(id, func(n *api.Node) { n.Away, n.State = false, api.StateOK })
		}
		w.run(id)
		require.Eventually(t, func() bool { return w.reports()[id].Goal == goalOf(w) }, waitTimeout, time.Millisecond)
		w.every(func(bucket, name string) {
			assert.Positive(t, w.holders(bucket, name), "%s/%s is gone", bucket, name)
		})
	}
	w.settle()
	require.NoError(t, w.placed("single", objects))
	require.NoError(t, w.placed("mirrored", objects))
}

func goalOf(w *world) string { s := w.state(0); return s.Goal() }

func (w *world) every(check func(bucket, name string)) {
	s := w.state(0)
	for _, b := range s.Buckets {
		for i := range objects {
			check(b.Name, name(i))
		}
	}
}

func (w *world) holders(bucket, name string) (n int) {
	for _, s := range w.stores {
		if _, has, _ := s.State(bucket, name); has {
			n++
		}
	}
	return n
}

func TestNothingIsDeletedWhileSomebodyDoesNotAnswer(t *testing.T) {
	w := newWorld(t, 3, single, mirrored)
	w.fill("single", objects)
	w.fill("mirrored", objects)
	w.mu.Lock()
	w.silent["t4"] = true
	w.mu.Unlock()
	w.join("t4")
	before := w.stores["t1"].count() + w.stores["t2"].count() + w.stores["t3"].count()
	w.run("t1", "t2", "t3", "t4")
	require.Eventually(t, func() bool { return w.reports()["t1"].Count.Left > 0 && w.reports()["t2"].Count.Left > 0 }, waitTimeout, time.Millisecond)
	s := w.state(0)
	w.every(func(bucket, name string) {
		for _, id := range s.Placer.Plan(bucket, name, w.copies(bucket)).Former {
			for _, former := range id {
				_, has, _ := w.stores[former].State(bucket, name)
				onNew := w.holders(bucket, name)
				assert.True(t, has || onNew >= w.copies(bucket), "%s/%s", bucket, name)
			}
		}
	})
	assert.NotEmpty(t, heal.Unsettled(w.state(0), w.reports()))
	assert.GreaterOrEqual(t, w.stores["t1"].count()+w.stores["t2"].count()+w.stores["t3"].count(), before)
	w.mu.Lock()
	w.silent["t4"] = false
	w.placer = nil
	w.mu.Unlock()
	w.settle()
	require.NoError(t, w.placed("single", objects))
	require.NoError(t, w.placed("mirrored", objects))
}

func TestStoppedHealMovesNothing(t *testing.T) {
	w := newWorld(t, 3, mirrored)
	w.fill("mirrored", objects)
	w.board.control.Stopped = true
	w.join("t4")
	w.run("t1", "t2", "t3", "t4")
	require.Eventually(t, func() bool { return w.reports()["t1"].State == api.RebalanceStopped }, waitTimeout, time.Millisecond)
	assert.Zero(t, w.stores["t4"].count())
	w.board.mu.Lock()
	w.board.control.Stopped = false
	w.board.mu.Unlock()
	w.settle()
	require.NoError(t, w.placed("mirrored", objects))
}

// A target that is alone with the newest version gives it to all, be it in no list any more.
func TestADeletionReachesAllThatAreToKnowOfIt(t *testing.T) {
	w := newWorld(t, 3, mirrored)
	w.fill("mirrored", objects)
	s := w.state(0)
	copies := s.Placer.Plan("mirrored", name(7), 2).Copies
	w.stores[copies[1]].put(store.Info{Bucket: "mirrored", Name: name(7), Version: 5000, Kind: store.Tombstone, Created: time.Now()})
	w.run("t1", "t2", "t3")
	w.join("t4")
	w.run("t4")
	w.settle()
	s = w.state(0)
	for _, id := range s.Placer.Plan("mirrored", name(7), 2).Copies {
		info, has, _ := w.stores[id].State("mirrored", name(7))
		require.True(t, has)
		assert.Equal(t, store.Tombstone, info.Kind)
	}
}
