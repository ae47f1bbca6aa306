package membership_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

// keeping is a gateway with its part of etcd.
type keeping struct {
	*membership.Membership
	etcd *membership.Etcd
	stop func()
}

// keeper starts a gateway; it begins etcd where it has no others to join, or goes on where it was.
func keeper(t testing.TB, dir string, i int, join ...*keeping) *keeping {
	t.Helper()
	id := fmt.Sprintf("gateway-%d", i)
	log := slog.New(slog.DiscardHandler)
	e, err := membership.NewEtcd(membership.EtcdConfig{Dir: filepath.Join(dir, id), Name: id, Logger: log})
	require.NoError(t, err)
	endpoints := e.Endpoints()
	if e.Exists() || len(join) == 0 {
		require.NoError(t, e.Start(t.Context()))
	} else {
		endpoints = join[0].Endpoints()
	}
	self := gateway(id)
	self.Addr = fmt.Sprintf("127.0.0.1:%d", i)
	m, err := membership.Join(t.Context(), membership.Config{Endpoints: endpoints, Self: self, LeaseTTL: 2 * time.Second, Logger: log})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var ends sync.WaitGroup
	ends.Go(func() { // ends with stop
		err := m.Run(ctx)
		if ctx.Err() == nil {
			assert.ErrorIs(t, err, membership.ErrRemoved)
		}
	})
	k := membership.NewKeeper(m, e, 3)
	ends.Go(func() { assert.NoError(t, k.Run(ctx)) }) // ends with stop
	stop := sync.OnceFunc(func() {
		cancel()
		ends.Wait()
		assert.NoError(t, m.Close())
		e.Close()
	})
	t.Cleanup(stop)
	return &keeping{Membership: m, etcd: e, stop: stop}
}

// voters waits for a number of voting members of etcd.
func voters(t testing.TB, m *membership.Membership, n int) {
	t.Helper()
	await(t, m, fmt.Sprintf("%d voters", n), func(*membership.View) bool { return len(m.Endpoints()) == n })
}

func writable(t testing.TB, m *membership.Membership, bucket string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		err := m.CreateBucket(t.Context(), api.Bucket{Name: bucket})
		if err != nil {
			_, err = m.FindBucket(t.Context(), bucket)
		}
		assert.NoError(c, err)
	}, patience, 50*time.Millisecond)
}

func TestEtcdGrowsWithTheGateways(t *testing.T) {
	dir := t.TempDir()
	first := keeper(t, dir, 1)
	worker, _ := member(t, first.etcd, target(1))
	second := keeper(t, dir, 2, first)
	third := keeper(t, dir, 3, first)
	voters(t, first.Membership, 3)
	voters(t, worker, 3)
	writable(t, worker, "b")

	// A majority is enough, whoever is missing.
	first.stop()
	writable(t, worker, "without-1")
	await(t, second.Membership, "a leader", func(*membership.View) bool { return second.Leader() != third.Leader() })
	again := keeper(t, dir, 1)
	await(t, again.Membership, "all are up", func(v *membership.View) bool { return state(v, "gateway-3") == api.StateOK })

	// One that is lost for good, and its replacement.
	third.stop()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		assert.NoError(c, second.Remove(t.Context(), "gateway-3", false))
	}, patience, 50*time.Millisecond)
	voters(t, second.Membership, 1) // two would be worse than one
	fourth := keeper(t, dir, 4, second)
	voters(t, fourth.Membership, 3)
	writable(t, worker, "with-4")
	buckets, err := fourth.KV("buckets").List(t.Context())
	require.NoError(t, err)
	assert.Len(t, buckets, 3)

	// All at once, and back.
	for _, k := range []*keeping{again, second, fourth} {
		k.stop()
	}
	var back sync.WaitGroup
	for _, i := range []int{1, 2, 4} {
		back.Go(func() { keeper(t, dir, i) })
	}
	back.Wait()
	writable(t, worker, "after-all")
}
