package faults

import (
	"flag"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

var rounds = flag.Int("rounds", 2, "how often each fault is made")

// pause lets the clients work for a moment.
func pause(random *rand.Rand, from, to time.Duration) {
	time.Sleep(from + time.Duration(random.Int64N(int64(to-from))))
}

// mirrored is a bucket's redundancy in these tests.
func mirrored(copies int) api.BucketChange { return api.BucketChange{Mirror: &copies} }

// underFaults has a workload run on a fleet while a fault is made some times, and holds all promises to what the clients
// saw: nothing acknowledged is lost or changed, histories are linearizable, listings whole, and nothing hangs.
func underFaults(t *testing.T, f *fleet, fault func(*rand.Rand)) {
	t.Helper()
	random := seeded(t)
	w := f.begin(random.Uint64(), mirrored(2))
	for round := range *rounds {
		pause(random, 500*time.Millisecond, 1500*time.Millisecond)
		w.synced()
		began := time.Now()
		fault(random)
		f.awaitOK()
		t.Logf("round %d: %v", round, time.Since(began).Round(time.Millisecond))
		require.False(t, t.Failed())
	}
	pause(random, 500*time.Millisecond, time.Second)
	w.finish()
	f.awaitSettled()
	report, err := f.client.Fsck(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Corrupt)
	require.Empty(t, report.Stray)
	// What was acknowledged is on all. What was broken off may be on one target until all have looked at what they have.
	for _, e := range ledgerOf(t, w.path) {
		for _, m := range report.Missing {
			require.NotEqual(t, api.Address(workloadTable, e.Key), m.Object, m.Detail)
		}
	}
	_, err = f.client.StartRebalance(t.Context())
	require.NoError(t, err)
	f.awaitSettled()
	report, err = f.client.Fsck(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Missing)
	require.Empty(t, report.Corrupt)
	require.Empty(t, report.Stray)
}

// anyOf draws one of some nodes, twoOf two.
func anyOf(random *rand.Rand, nodes []*machine) *machine { return nodes[random.IntN(len(nodes))] }

func twoOf(random *rand.Rand, nodes []*machine) (a, b *machine) {
	order := random.Perm(len(nodes))
	return nodes[order[0]], nodes[order[1]]
}

// TestKilledTargets: a target is killed, stays away long enough to be replaced in the lists, or does not, and comes back.
func TestKilledTargets(t *testing.T) {
	f := startFleet(t, 2, 4)
	underFaults(t, f, func(random *rand.Rand) {
		m := anyOf(random, f.targets())
		f.signal(m, syscall.SIGKILL)
		pause(random, 0, 6*time.Second)
		f.start(m)
	})
}

// TestStoppedTargets: a target is stopped for longer than its lease, so that others take over, and goes on: it must not
// answer by what it knew.
func TestStoppedTargets(t *testing.T) {
	f := startFleet(t, 2, 4)
	underFaults(t, f, func(random *rand.Rand) {
		m := anyOf(random, f.targets())
		f.signal(m, syscall.SIGSTOP)
		pause(random, 3*time.Second, 8*time.Second)
		f.signal(m, syscall.SIGCONT)
	})
}

// TestKilledGateways: the gateways are killed one at a time, the one with etcd in it too.
func TestKilledGateways(t *testing.T) {
	f := startFleet(t, 2, 3)
	underFaults(t, f, func(random *rand.Rand) {
		m := f.nodes[random.IntN(len(f.gateways))]
		f.signal(m, syscall.SIGKILL)
		pause(random, 0, 4*time.Second)
		f.start(m)
	})
}

// TestAllKilledAtOnce: all nodes are killed at once, and start again in any order.
func TestAllKilledAtOnce(t *testing.T) {
	f := startFleet(t, 2, 3)
	underFaults(t, f, func(random *rand.Rand) {
		for _, m := range f.nodes {
			require.NoError(t, m.cmd.Process.Signal(syscall.SIGKILL))
		}
		for _, m := range f.nodes {
			<-m.ended
		}
		for _, i := range random.Perm(len(f.nodes)) {
			f.start(f.nodes[i])
			pause(random, 0, time.Second)
		}
	})
}

// TestRollingRestart: each node in turn is ended and started again.
func TestRollingRestart(t *testing.T) {
	f := startFleet(t, 2, 3)
	underFaults(t, f, func(*rand.Rand) {
		for _, m := range f.nodes {
			f.signal(m, syscall.SIGTERM)
			f.start(m)
			f.eventually(m.id+" does not come back", func() bool { return f.health(m) == nil })
			f.awaitOK()
		}
	})
}
