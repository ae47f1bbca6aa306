//go:build !race

// Package simulation runs the protocol of mirrored objects in a simulated world: many seeds, each a cluster whose network
// loses and delays messages, whose nodes crash, stall and lose disks, and whose operators add and remove targets all
// the while. A run takes milliseconds and is the same each time, so that what it finds can be looked into.
//
// Where things belong and what answers prove is decided by the real code: placement and heal. The rest is a model of what
// targets do, in the order in which they do it; it is the protocol's specification by example. What a mistake in it would
// lead to is tested too: each of some mistakes must be found.
//
// SEED=n runs one seed and prints its journal; -seeds n runs so many. One thing happens at a time here, so the race
// detector would find nothing and take ten times as long: the package is built without it only.
package simulation

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

var seeds = flag.Int("seeds", 200, "how many seeds to run")

const (
	troubled = 45 * time.Second // with faults
	calm     = 150 * time.Second
)

// simulate runs a seed to its end.
func simulate(seed uint64, wrong faults) *world {
	w := newWorld(seed, wrong)
	defer w.close()
	for _, c := range w.clients {
		w.start(c.host, func() { c.work(troubled + 20*time.Second) })
	}
	n := &nemesis{w: w}
	w.start(&host{id: "nemesis", up: true}, n.strike)
	w.run(troubled)
	n.relent()
	w.run(troubled + 30*time.Second)
	for limit := troubled + calm; ; {
		faults := w.checkCopies()
		m := &w.control.doc.placer.Map
		if len(faults) == 0 && len(m.Former) == 0 && len(w.control.doc.bucket.Was) == 0 {
			break
		}
		if w.now > limit {
			w.breach("the cluster does not come to rest: %s; %s", describe(m, &w.control.doc.bucket), strings.Join(faults, "; "))
			break
		}
		w.run(w.now + time.Second)
	}
	reader := w.clients[0]
	unread := len(w.keys)
	w.start(reader.host, func() {
		for _, k := range w.keys {
			if _, ok := reader.do(operation{kind: read, key: k}); ok {
				unread--
			}
		}
	})
	w.run(w.now + time.Minute)
	if unread > 0 {
		w.breach("%d keys can't be read", unread)
	}
	w.checkHistories()
	return w
}

func TestProtocol(t *testing.T) {
	if one := os.Getenv("SEED"); one != "" {
		seed, err := strconv.ParseUint(one, 10, 64)
		require.NoError(t, err)
		w := simulate(seed, faults{})
		t.Log(strings.Join(w.journal, "\n"))
		require.Empty(t, w.broken)
		return
	}
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	operations := make([]int, *seeds)
	for seed := range *seeds {
		group.Go(func() error {
			w := simulate(uint64(seed), faults{})
			for _, h := range w.history {
				operations[seed] += len(h)
			}
			if len(w.broken) > 0 {
				t.Errorf("SEED=%d: %s", seed, strings.Join(w.broken, "\n"))
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	total := 0
	for _, n := range operations {
		total += n
	}
	t.Logf("%d seeds, %d operations", *seeds, total)
	require.Greater(t, total, 100**seeds, "the clients hardly get anything done")
}
