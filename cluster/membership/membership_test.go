package membership_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

const patience = 30 * time.Second

func etcd(t testing.TB, dir string) *membership.Etcd {
	t.Helper()
	e, err := membership.StartEtcd(t.Context(), membership.EtcdConfig{Dir: dir, Name: "gateway-1", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(e.Close)
	return e
}

// member joins and runs until the test or stop ends it.
func member(t testing.TB, e *membership.Etcd, n api.Node) (m *membership.Membership, stop func()) {
	t.Helper()
	m, err := membership.Join(t.Context(), membership.Config{
		Endpoints: e.Endpoints(), Self: n, LeaseTTL: 2 * time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }() // ends with stop
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-done)
		assert.NoError(t, m.Close())
	})
	t.Cleanup(stop)
	return m, stop
}

func target(i int) api.Node {
	return api.Node{ID: fmt.Sprintf("target-%d", i), Role: api.RoleTarget, Addr: fmt.Sprintf("127.0.0.1:%d", 9000+i), PID: i}
}

func await(t testing.TB, m *membership.Membership, what string, holds func(*membership.View) bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds(m.View()) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s; map %+v", patience, what, m.View().Map())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func state(m *membership.View, id string) string {
	n, _ := m.Map().Node(id)
	return n.State
}

func TestNodesSeeEachOther(t *testing.T) {
	e := etcd(t, t.TempDir())
	first, _ := member(t, e, target(1))
	var stops []func()
	var wait sync.WaitGroup
	var mu sync.Mutex
	for i := 2; i <= 6; i++ { // at the same time: they race for the map
		wait.Go(func() {
			_, stop := member(t, e, target(i))
			mu.Lock()
			defer mu.Unlock()
			stops = append(stops, stop)
		})
	}
	wait.Wait()
	await(t, first, "all are up", func(v *membership.View) bool {
		m := v.Map()
		up := 0
		for _, n := range m.Nodes {
			if n.State == api.StateOK {
				up++
			}
		}
		return up == 6
	})
	m := first.View().Map()
	assert.Equal(t, int64(6), m.Version)
	assert.Empty(t, m.Former, "no bucket yet: no object can be elsewhere")
	assert.NotEmpty(t, m.Cluster)
	for _, stop := range stops {
		stop()
	}
	await(t, first, "those that left are down", func(v *membership.View) bool { return state(v, "target-6") == api.StateDown })
	assert.Len(t, first.View().Map().Nodes, 6, "a node that is down stays a member")
	assert.Equal(t, int64(6), first.View().Map().Version)
}

func TestReturningUnderAnotherAddress(t *testing.T) {
	e := etcd(t, t.TempDir())
	watcher, _ := member(t, e, api.Node{ID: "gateway-1", Role: api.RoleGateway, Addr: "127.0.0.1:1"})
	_, stop := member(t, e, target(1))
	await(t, watcher, "up", func(v *membership.View) bool { return state(v, "target-1") == api.StateOK })
	version := watcher.View().Map().Version
	stop()
	_, stop = member(t, e, target(1))
	await(t, watcher, "back", func(v *membership.View) bool { return state(v, "target-1") == api.StateOK })
	assert.Equal(t, version+1, watcher.View().Map().Version, "what it writes from now on is newer than all that it wrote before")
	assert.Empty(t, watcher.View().Map().Former, "but the set of targets is the same")
	stop()
	moved := target(1)
	moved.Addr, moved.Weight = "127.0.0.1:9999", 5
	member(t, e, moved)
	await(t, watcher, "moved", func(v *membership.View) bool {
		n, _ := v.Map().Node("target-1")
		return n.Addr == moved.Addr
	})
	n, _ := watcher.View().Map().Node("target-1")
	assert.Equal(t, version+2, watcher.View().Map().Version)
	assert.InDelta(t, 1, n.Weight, 0, "a weight is set once: changing it would lose sight of objects")
}

func TestAnIDHasOneRole(t *testing.T) {
	e := etcd(t, t.TempDir())
	member(t, e, target(1))
	twin := target(1)
	twin.Role = api.RoleGateway
	_, err := membership.Join(t.Context(), membership.Config{Endpoints: e.Endpoints(), Self: twin, Logger: slog.New(slog.DiscardHandler)})
	assert.ErrorContains(t, err, "target-1")
}

func TestFormerSets(t *testing.T) {
	e := etcd(t, t.TempDir())
	m, _ := member(t, e, target(1))
	member(t, e, target(2))
	require.NoError(t, m.CreateBucket(t.Context(), api.Bucket{Name: "b"}))
	member(t, e, api.Node{ID: "gateway-1", Role: api.RoleGateway, Addr: "127.0.0.1:1"})
	member(t, e, target(3))
	member(t, e, target(4))
	await(t, m, "all joined", func(v *membership.View) bool { return len(v.Map().Nodes) == 5 })
	assert.Equal(t, [][]string{{"target-1", "target-2", "target-3"}, {"target-1", "target-2"}}, formerIDs(m.View().Map()))
}

// formerIDs are the ids of the map's earlier sets of targets.
func formerIDs(m *api.Map) (sets [][]string) {
	for _, e := range m.Former {
		var set []string
		for _, n := range e.Targets {
			set = append(set, n.ID)
		}
		sets = append(sets, set)
	}
	return sets
}

// A lease that is gone, as after a long stall, is noticed and replaced.
func TestALostLeaseIsReplaced(t *testing.T) {
	e := etcd(t, t.TempDir())
	m, _ := member(t, e, target(1))
	client, err := clientv3.New(clientv3.Config{Endpoints: e.Endpoints()})
	require.NoError(t, err)
	defer func() { assert.NoError(t, client.Close()) }()
	leases, err := client.Leases(t.Context())
	require.NoError(t, err)
	require.Len(t, leases.Leases, 1)
	_, err = client.Revoke(t.Context(), leases.Leases[0].ID)
	require.NoError(t, err)
	await(t, m, "down", func(v *membership.View) bool { return state(v, "target-1") == api.StateDown })
	await(t, m, "up again", func(v *membership.View) bool { return state(v, "target-1") == api.StateOK })
}

// Of two nodes with one id, the one that came last has it; the other is fenced, and comes back when that one has ended.
func TestTwoNodesWithOneID(t *testing.T) {
	e := etcd(t, t.TempDir())
	first, _ := member(t, e, target(1))
	_, err := membership.Join(t.Context(), membership.Config{
		Endpoints: e.Endpoints(), Self: target(1), Fresh: true, Logger: slog.New(slog.DiscardHandler),
	})
	var answer *api.Error
	require.ErrorAs(t, err, &answer, "with empty disks it can't be the one that is up")
	assert.Equal(t, api.CodeUnavailable, answer.Code, "so it waits for that one's end")
	assert.ErrorContains(t, err, "target-1 is up")
	assert.True(t, first.Leased())

	moved := target(1)
	moved.Addr = "127.0.0.1:9999"
	_, stop := member(t, e, moved)
	assert.Eventually(t, func() bool { return !first.Leased() }, patience, 10*time.Millisecond)
	stop()
	await(t, first, "back", func(v *membership.View) bool {
		n, _ := v.Map().Node("target-1")
		return n.State == api.StateOK && n.Addr == target(1).Addr
	})
	assert.Eventually(t, first.Leased, patience, 10*time.Millisecond)
}

func TestRestartOfEtcd(t *testing.T) {
	dir := t.TempDir()
	e := etcd(t, dir)
	m, _ := member(t, e, target(1))
	require.NoError(t, m.CreateBucket(t.Context(), api.Bucket{Name: "b"}))
	before := m.View()
	e.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := m.FindBucket(ctx, "other")
	var away *membership.UnavailableError
	require.ErrorAs(t, err, &away)
	_, err = m.FindBucket(ctx, "b")
	require.NoError(t, err, "what is known stays known")

	again := etcd(t, dir)
	assert.Equal(t, e.Endpoints(), again.Endpoints())
	deadline := time.Now().Add(patience)
	for {
		err := m.CreateBucket(t.Context(), api.Bucket{Name: "c"})
		if err == nil {
			break
		}
		require.True(t, time.Now().Before(deadline), "%v", err)
	}
	assert.Equal(t, before.Map().Cluster, m.View().Map().Cluster)
	assert.Equal(t, before.Map().Version, m.View().Map().Version)
	assert.Len(t, m.View().Buckets(), 2)
}

func TestBuckets(t *testing.T) {
	e := etcd(t, t.TempDir())
	a, _ := member(t, e, target(1))
	b, _ := member(t, e, target(2))
	require.NoError(t, a.CreateBucket(t.Context(), api.Bucket{Name: "x", Mirror: 1}))
	found, err := b.FindBucket(t.Context(), "x") // at once
	require.NoError(t, err)
	assert.Equal(t, 1, found.Mirror)
	require.ErrorIs(t, b.CreateBucket(t.Context(), api.Bucket{Name: "x"}), membership.ErrBucketExists)

	revision, err := b.SetDeleting(t.Context(), "x", true)
	require.NoError(t, err)
	view, err := a.Wait(t.Context(), revision)
	require.NoError(t, err)
	assert.Empty(t, view.Buckets())
	_, err = a.FindBucket(t.Context(), "x")
	require.ErrorIs(t, err, membership.ErrNoBucket)
	require.ErrorIs(t, a.CreateBucket(t.Context(), api.Bucket{Name: "x"}), membership.ErrBucketExists)
	revision, err = a.SetDeleting(t.Context(), "x", false)
	require.NoError(t, err)
	_, err = b.Wait(t.Context(), revision)
	require.NoError(t, err)
	again, err := b.FindBucket(t.Context(), "x")
	require.NoError(t, err)
	assert.Equal(t, found.Identity, again.Identity)

	_, err = a.RemoveBucket(t.Context(), "x")
	require.NoError(t, err)
	_, err = a.RemoveBucket(t.Context(), "x")
	require.ErrorIs(t, err, membership.ErrNoBucket)
	_, err = a.SetDeleting(t.Context(), "x", true)
	require.ErrorIs(t, err, membership.ErrNoBucket)
	require.NoError(t, a.CreateBucket(t.Context(), api.Bucket{Name: "x"}))
	renewed, err := a.FindBucket(t.Context(), "x")
	require.NoError(t, err)
	assert.NotEqual(t, found.Identity, renewed.Identity)
}

func TestWaitEndsWithItsContext(t *testing.T) {
	e := etcd(t, t.TempDir())
	m, _ := member(t, e, target(1))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := m.Wait(ctx, m.View().Revision+1000)
	var away *membership.UnavailableError
	assert.ErrorAs(t, err, &away)
}

func TestKV(t *testing.T) {
	e := etcd(t, t.TempDir())
	m, _ := member(t, e, target(1))
	kv := m.KV("etls")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan []membership.Entry, 100)
	done := make(chan error, 1)
	go func() { done <- kv.Watch(ctx, func(all []membership.Entry) { seen <- all }) }() // ends with cancel
	assert.Empty(t, <-seen)

	_, err := kv.Get(t.Context(), "a")
	require.ErrorIs(t, err, membership.ErrNoEntry)
	require.ErrorIs(t, kv.Delete(t.Context(), "a"), membership.ErrNoEntry)
	first, err := kv.PutIf(t.Context(), "a", []byte("1"), 0)
	require.NoError(t, err)
	_, err = kv.PutIf(t.Context(), "a", []byte("2"), 0)
	require.ErrorIs(t, err, membership.ErrConflict)
	second, err := kv.PutIf(t.Context(), "a", []byte("2"), first)
	require.NoError(t, err)
	third, err := kv.Put(t.Context(), "b", []byte("3"))
	require.NoError(t, err)
	assert.Greater(t, second, first)
	assert.Greater(t, third, second)
	entry, err := kv.Get(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, membership.Entry{Name: "a", Value: []byte("2"), Revision: second}, entry)
	list, err := kv.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.NoError(t, kv.Delete(t.Context(), "a"))

	for {
		select {
		case all := <-seen:
			if len(all) == 1 && all[0].Name == "b" {
				cancel()
				require.NoError(t, <-done)
				return
			}
		case <-time.After(patience):
			t.Fatal("the watch did not tell")
		}
	}
}
