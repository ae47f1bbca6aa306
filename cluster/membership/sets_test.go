package membership_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

func gateway(id string) api.Node {
	return api.Node{ID: id, Role: api.RoleGateway, Addr: "127.0.0.1:1"}
}

func node(v *membership.View, id string) api.Node {
	n, _ := v.Map().Node(id)
	return n
}

// fresh joins with empty disks, once no other goes by the id.
func fresh(t testing.TB, e *membership.Etcd, n api.Node) (m *membership.Membership, err error) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		m, err = membership.Join(t.Context(), membership.Config{
			Endpoints: e.Endpoints(), Self: n, LeaseTTL: 2 * time.Second, Logger: slog.New(slog.DiscardHandler), Fresh: true,
		})
		var answer *api.Error
		if !errors.As(err, &answer) || answer.Code != api.CodeUnavailable {
			break
		}
	}
	if err == nil {
		t.Cleanup(func() { assert.NoError(t, m.Close()) })
	}
	return m, err
}

func TestATargetThatIsGoneIsAwayUntilItIsBack(t *testing.T) {
	e := etcd(t, t.TempDir())
	g, _ := member(t, e, gateway("gateway-1"))
	member(t, e, target(1))
	_, stop := member(t, e, target(2))
	require.NoError(t, g.CreateBucket(t.Context(), api.Bucket{Name: "b", Mirror: 2}))
	await(t, g, "a leader", func(*membership.View) bool { return g.Leader() })
	before := g.View().Map()
	stop()
	await(t, g, "away", func(v *membership.View) bool { return node(v, "target-2").Away })
	m := g.View().Map()
	assert.Equal(t, before.Version+1, m.Version)
	assert.Equal(t, m.Version, m.Since)
	require.Len(t, m.Former, 1)
	assert.False(t, m.Former[0].Targets[1].Away, "in the set before it was not")
	assert.Equal(t, before.Since, m.Former[0].Version)

	_, stop = member(t, e, target(2))
	await(t, g, "back", func(v *membership.View) bool { return !node(v, "target-2").Away })
	m = g.View().Map()
	require.Len(t, m.Former, 1, "the present set is not among the former ones")
	assert.True(t, m.Former[0].Targets[1].Away)
	for range 3 { // the same two sets, again and again
		stop()
		await(t, g, "away", func(v *membership.View) bool { return node(v, "target-2").Away })
		_, stop = member(t, e, target(2))
		await(t, g, "back", func(v *membership.View) bool { return !node(v, "target-2").Away })
	}
	assert.Len(t, g.View().Map().Former, 1)
}

func TestWhereNobodyIsLeftNobodyIsAway(t *testing.T) {
	e := etcd(t, t.TempDir())
	g, _ := member(t, e, gateway("gateway-1"))
	_, stop := member(t, e, target(1))
	require.NoError(t, g.CreateBucket(t.Context(), api.Bucket{Name: "b"}))
	await(t, g, "a leader", func(*membership.View) bool { return g.Leader() })
	version := g.View().Map().Version
	stop()
	await(t, g, "down", func(v *membership.View) bool { return state(v, "target-1") == api.StateDown })
	// Longer than it takes to be marked, where there is another.
	assert.Never(t, func() bool { return node(g.View(), "target-1").Away }, time.Second, 20*time.Millisecond)
	assert.Equal(t, version, g.View().Map().Version)
}

func TestSettle(t *testing.T) {
	e := etcd(t, t.TempDir())
	m, _ := member(t, e, target(1))
	require.NoError(t, m.CreateBucket(t.Context(), api.Bucket{Name: "b"}))
	bare := target(2)
	member(t, e, bare)
	require.NoError(t, m.Update(t.Context(), nil, true))
	await(t, m, "bare", func(v *membership.View) bool { return node(v, "target-1").Bare })
	version := m.View().Map().Version
	require.ErrorIs(t, m.Settle(t.Context(), version-1), membership.ErrMapChanged)
	require.Len(t, m.View().Map().Former, 1)
	require.False(t, m.View().Placer.Layout().Settled())
	require.NoError(t, m.Settle(t.Context(), version))
	settled := m.View().Map()
	assert.Empty(t, settled.Former)
	assert.False(t, node(m.View(), "target-1").Bare)
	assert.Equal(t, version+1, settled.Version, "one version is one state")
	assert.True(t, m.View().Placer.Layout().Settled())
	require.NoError(t, m.Update(t.Context(), nil, false))
	assert.False(t, node(m.View(), "target-1").Bare, "what was made up for is not told again")
}

func TestDrainAndRemove(t *testing.T) {
	e := etcd(t, t.TempDir())
	g, _ := member(t, e, gateway("gateway-1"))
	member(t, e, target(1))
	second, err := fresh(t, e, target(2))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- second.Run(ctx) }() // ends when it is removed
	require.NoError(t, g.CreateBucket(t.Context(), api.Bucket{Name: "b"}))

	require.ErrorIs(t, g.Drain(t.Context(), "target-9", true), membership.ErrNoNode)
	require.ErrorIs(t, g.Drain(t.Context(), "gateway-1", true), membership.ErrRefused)
	require.ErrorIs(t, g.Remove(t.Context(), "target-2", false), membership.ErrNotDrained)
	require.NoError(t, g.Drain(t.Context(), "target-2", true))
	require.ErrorIs(t, g.Drain(t.Context(), "target-1", true), membership.ErrRefused, "the last that takes objects")
	version := g.View().Map().Version
	require.NoError(t, g.Drain(t.Context(), "target-2", true))
	assert.Equal(t, version, g.View().Map().Version, "it was already")
	require.Len(t, g.View().Map().Former, 1)
	require.ErrorIs(t, g.Remove(t.Context(), "target-2", false), membership.ErrNotDrained)

	require.NoError(t, g.Drain(t.Context(), "target-2", false))
	assert.False(t, node(g.View(), "target-2").Draining)
	require.NoError(t, g.Drain(t.Context(), "target-2", true))
	require.NoError(t, g.Settle(t.Context(), g.View().Map().Version, "target-2"))
	assert.True(t, node(g.View(), "target-2").Drained)
	since := g.View().Map().Since
	require.NoError(t, g.Remove(t.Context(), "target-2", false))
	m := g.View().Map()
	_, member := m.Node("target-2")
	assert.False(t, member)
	assert.Empty(t, m.Former, "a target that was drained takes nothing with it")
	assert.Equal(t, since, m.Since)
	require.ErrorIs(t, <-ended, membership.ErrRemoved)

	_, err = membership.Join(t.Context(), membership.Config{Endpoints: e.Endpoints(), Self: target(2), Logger: slog.New(slog.DiscardHandler)})
	require.ErrorIs(t, err, membership.ErrRemoved)
	_, err = fresh(t, e, target(2))
	require.NoError(t, err)
	require.ErrorIs(t, g.Remove(t.Context(), "gateway-1", false), membership.ErrRefused, "the last gateway")
}

func TestWhoComesBackEmptyIsBare(t *testing.T) {
	e := etcd(t, t.TempDir())
	g, _ := member(t, e, gateway("gateway-1"))
	member(t, e, target(1))
	_, err := fresh(t, e, target(2))
	require.NoError(t, err)
	assert.False(t, node(g.View(), "target-2").Bare, "new in a cluster without objects")
	require.NoError(t, g.CreateBucket(t.Context(), api.Bucket{Name: "b"}))
	_, err = fresh(t, e, target(3))
	require.NoError(t, err)
	await(t, g, "joined", func(v *membership.View) bool { return node(v, "target-3").ID != "" })
	assert.False(t, node(g.View(), "target-3").Bare, "it never had anything")
	_, err = fresh(t, e, target(3))
	require.NoError(t, err)
	await(t, g, "bare", func(v *membership.View) bool { return node(v, "target-3").Bare })

	// One that was removed by force had what is looked for on it still.
	require.NoError(t, g.Remove(t.Context(), "target-2", true))
	assert.Equal(t, [][]string{{"target-1", "target-2", "target-3"}, {"target-1", "target-2"}}, formerIDs(g.View().Map()))
	_, err = fresh(t, e, target(2))
	require.NoError(t, err)
	await(t, g, "bare", func(v *membership.View) bool { return node(v, "target-2").Bare })
}

func TestLeadersFollowEachOther(t *testing.T) {
	e := etcd(t, t.TempDir())
	first, stop := member(t, e, gateway("gateway-1"))
	await(t, first, "a leader", func(*membership.View) bool { return first.Leader() })
	second, _ := member(t, e, gateway("gateway-2"))
	third, _ := member(t, e, gateway("gateway-3"))
	member(t, e, target(1))
	assert.True(t, first.Leader())
	assert.False(t, second.Leader() || third.Leader())
	stop()
	await(t, second, "another leader", func(*membership.View) bool { return second.Leader() != third.Leader() })
}

func TestAChangeOfRedundancyIsOneOfTheMap(t *testing.T) {
	e := etcd(t, t.TempDir())
	m, _ := member(t, e, target(1))
	member(t, e, target(2))
	require.NoError(t, m.CreateBucket(t.Context(), api.Bucket{Name: "b", Mirror: 1}))
	mirror := func(n int) func(*api.Bucket) error {
		return func(b *api.Bucket) error { b.Mirror = n; return nil }
	}
	version := m.View().Map().Version
	b, err := m.ChangeBucket(t.Context(), "b", func(b *api.Bucket) error { b.Degraded = true; return nil })
	require.NoError(t, err)
	assert.True(t, b.Degraded)
	assert.Equal(t, version, m.View().Map().Version)
	b, err = m.ChangeBucket(t.Context(), "b", mirror(2))
	require.NoError(t, err)
	assert.Equal(t, []int{1}, b.Was)
	assert.Equal(t, version+1, m.View().Map().Version)
	seen, _ := m.View().Bucket("b")
	assert.Equal(t, b, seen.Bucket, "in the same view as the map")

	_, err = m.ChangeBucket(t.Context(), "b", mirror(3))
	require.ErrorIs(t, err, membership.ErrUnsettled)
	require.NoError(t, m.Settle(t.Context(), version+1))
	seen, _ = m.View().Bucket("b")
	assert.Empty(t, seen.Was)
	member(t, e, target(3))
	_, err = m.ChangeBucket(t.Context(), "b", mirror(3))
	require.ErrorIs(t, err, membership.ErrUnsettled, "after a join")
	_, err = m.ChangeBucket(t.Context(), "c", mirror(3))
	require.ErrorIs(t, err, membership.ErrNoBucket)
}

func TestALeaseIsWorthNothingWithoutTheNewestMap(t *testing.T) {
	e := etcd(t, t.TempDir())
	m, err := membership.Join(t.Context(), membership.Config{
		Endpoints: e.Endpoints(), Self: target(1), LeaseTTL: time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	defer func() { assert.NoError(t, m.Close()) }()
	assert.True(t, m.Leased())
	member(t, e, target(2)) // m does not run, and so does not see it, nor renew its lease
	assert.Eventually(t, func() bool { return !m.Leased() }, patience, 10*time.Millisecond)
}

func TestNewNodesSpendTokens(t *testing.T) {
	e := etcd(t, t.TempDir())
	join := func(n api.Node, edit func(*membership.Config)) error {
		c := membership.Config{Endpoints: e.Endpoints(), Self: n, LeaseTTL: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)}
		edit(&c)
		m, err := membership.Join(t.Context(), c)
		if err == nil {
			t.Cleanup(func() { assert.NoError(t, m.Close()) })
		}
		return err
	}
	guard := func(c *membership.Config) { c.Guard = true }
	with := func(token string) func(*membership.Config) {
		return func(c *membership.Config) { c.Token = token }
	}
	require.NoError(t, join(gateway("gateway-1"), guard), "the first needs none")
	g, _ := member(t, e, gateway("gateway-1"))
	require.ErrorIs(t, join(target(1), with("")), membership.ErrToken)
	require.ErrorIs(t, join(target(1), with("made-up")), membership.ErrToken)
	token, err := g.NewToken(t.Context(), time.Minute)
	require.NoError(t, err)
	entries, err := g.KV("tokens").List(t.Context())
	require.NoError(t, err)
	require.Len(t, entries, 1)
	assert.NotContains(t, entries[0].Name, token.Token, "the hash only")

	var joined atomic.Int32
	var race sync.WaitGroup
	for i := 1; i <= 8; i++ { // all with the same token
		race.Go(func() {
			if err := join(target(i), with(token.Token)); err == nil {
				joined.Add(1)
			} else {
				assert.ErrorIs(t, err, membership.ErrToken)
			}
		})
	}
	race.Wait()
	assert.Equal(t, int32(1), joined.Load())
	await(t, g, "one joined", func(v *membership.View) bool { return len(v.Map().Targets()) == 1 })
	known := g.View().Map().Targets()[0]
	require.NoError(t, join(known, with("")), "a member needs none")
	require.ErrorIs(t, join(target(9), with(token.Token)), membership.ErrToken)
	short, err := g.NewToken(t.Context(), time.Second)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		list, err := g.KV("tokens").List(t.Context())
		return err == nil && len(list) == 0
	}, patience, 50*time.Millisecond, "its time is over")
	require.ErrorIs(t, join(target(9), with(short.Token)), membership.ErrToken)
}
