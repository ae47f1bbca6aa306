package heal_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/core/store"
)

func TestDecide(t *testing.T) {
	placer := api.NewPlacer(api.Map{Version: 1, Since: 1, Nodes: []api.Node{
		{ID: "a", Role: api.RoleTarget, Weight: 1}, {ID: "b", Role: api.RoleTarget, Weight: 1}, {ID: "c", Role: api.RoleTarget, Weight: 1},
	}})
	plan := placer.Plan("bucket", "key", 2)
	first, second := plan.Copies[0], plan.Copies[1]
	i := slices.IndexFunc([]string{"a", "b", "c"}, func(id string) bool { return !slices.Contains(plan.Copies, id) })
	outsider := []string{"a", "b", "c"}[i]
	has := func(version uint64) heal.Answer { return heal.Answer{Version: version} }
	lost := func(version uint64) heal.Answer { return heal.Answer{Version: version, Lost: true} }
	type answers map[string]heal.Answer
	cases := map[string]struct {
		self    string
		own     heal.Answer
		answers answers
		want    heal.Decision
	}{
		"all have it":                         {first, has(5), answers{second: has(5)}, heal.Decision{Mine: true}},
		"the second leaves it to the first":   {second, has(5), answers{first: has(5)}, heal.Decision{}},
		"the second lacks it":                 {first, has(5), answers{second: {}}, heal.Decision{Mine: true, Lacking: true, Push: []string{second}}},
		"the first lacks it":                  {second, has(5), answers{first: {}}, heal.Decision{Mine: true, Lacking: true, Push: []string{first}}},
		"an older version is no copy":         {first, has(5), answers{second: has(4)}, heal.Decision{Mine: true, Lacking: true, Push: []string{second}}},
		"a newer one is another's to give":    {first, has(5), answers{second: has(6)}, heal.Decision{Lacking: true}},
		"silence is unsure":                   {first, has(5), answers{}, heal.Decision{Mine: true, Unsure: true}},
		"a lost copy is none":                 {first, has(5), answers{second: lost(5)}, heal.Decision{Mine: true, Lacking: true, Push: []string{second}}},
		"what is lost here others give":       {first, lost(5), answers{second: has(5)}, heal.Decision{Lacking: true}},
		"lost everywhere is told by one":      {first, lost(5), answers{second: lost(5)}, heal.Decision{Mine: true, Lacking: true}},
		"an outsider may drop by proof":       {outsider, has(5), answers{first: has(5), second: has(5)}, heal.Decision{Misplaced: true, Drop: true}},
		"an outsider may drop what is old":    {outsider, has(4), answers{first: has(5), second: has(5)}, heal.Decision{Misplaced: true, Drop: true}},
		"not while one lacks it":              {outsider, has(5), answers{first: has(5), second: {}}, heal.Decision{Misplaced: true, Lacking: true}},
		"not while one is silent":             {outsider, has(5), answers{first: has(5)}, heal.Decision{Misplaced: true, Unsure: true}},
		"not while one has lost it":           {outsider, has(5), answers{first: has(5), second: lost(5)}, heal.Decision{Misplaced: true, Lacking: true}},
		"an outsider gives what nobody has":   {outsider, has(5), answers{first: {}, second: {}}, heal.Decision{Misplaced: true, Mine: true, Lacking: true, Push: plan.Copies}},
		"an outsider gives what is newer":     {outsider, has(6), answers{first: has(5), second: has(5)}, heal.Decision{Misplaced: true, Mine: true, Lacking: true, Push: plan.Copies}},
		"not while another lacks what is new": {outsider, has(5), answers{first: has(6), second: has(5)}, heal.Decision{Misplaced: true, Lacking: true}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := heal.Decide(heal.Question{Self: c.self, Plan: plan, Own: c.own, Answers: c.answers, Want: 2})
			assert.Equal(t, c.want, got)
		})
	}
}

// Whatever the answers: a copy goes only where all that are to have it have said that they do, in its version or a newer.
func TestNothingIsDroppedWithoutAllOfItsCopies(t *testing.T) {
	ids := []string{"a", "b", "c", "d", "e"}
	rapid.Check(t, func(t *rapid.T) {
		m := api.Map{Version: 9, Since: 9}
		var former api.Epoch
		for _, id := range ids {
			m.Nodes = append(m.Nodes, api.Node{
				ID: id, Role: api.RoleTarget, Weight: 1,
				Away: rapid.Bool().Draw(t, "away"), Draining: rapid.Bool().Draw(t, "draining"), Bare: rapid.Bool().Draw(t, "bare"),
			})
			if rapid.Bool().Draw(t, "former") {
				former.Targets = append(former.Targets, api.Member{ID: id, Weight: 1})
			}
		}
		m.Former = []api.Epoch{former}
		copies := rapid.IntRange(1, 3).Draw(t, "copies")
		plan := api.NewPlacer(m).Plan("bucket", rapid.StringN(1, 5, -1).Draw(t, "key"), copies)
		q := heal.Question{Self: "a", Plan: plan, Own: heal.Answer{Version: rapid.Uint64Range(1, 3).Draw(t, "own")}, Answers: map[string]heal.Answer{}, Want: copies}
		for _, id := range ids[1:] {
			if rapid.Bool().Draw(t, "answers") {
				q.Answers[id] = heal.Answer{Version: rapid.Uint64Range(0, 3).Draw(t, "version"), Lost: rapid.Bool().Draw(t, "lost")}
			}
		}
		d := heal.Decide(q)
		if !d.Drop {
			return
		}
		if len(plan.Copies) == 0 || slices.Contains(plan.Copies, "a") {
			t.Fatalf("dropped what is to be kept: %v", plan.Copies)
		}
		for _, id := range plan.Copies {
			if a, ok := q.Answers[id]; !ok || a.Lost || a.Version < q.Own.Version {
				t.Fatalf("%s has %v (%v), and version %d is dropped", id, a, ok, q.Own.Version)
			}
		}
	})
}

func TestDeletesWantProof(t *testing.T) {
	now := time.Now()
	info := store.Info{Bucket: "bucket", Name: "key", Version: 5}
	grave := store.Info{Bucket: "bucket", Name: "key", Version: 5, Kind: store.Tombstone}
	proof := func(a, b uint64) map[string]uint64 { return map[string]uint64{"a": a, "b": b} }
	cases := map[string]struct {
		deletion heal.Deletion
		version  int64
		leased   bool
		dropped  bool
	}{
		"all have it":                {heal.Deletion{Info: info, Keepers: []string{"a", "b"}, Proof: proof(5, 6), Asked: now, Map: 3}, 3, true, true},
		"nobody is to keep it":       {heal.Deletion{Info: info, Asked: now, Map: 3}, 3, true, false},
		"one did not answer":         {heal.Deletion{Info: info, Keepers: []string{"a", "b"}, Proof: map[string]uint64{"a": 5}, Asked: now, Map: 3}, 3, true, false},
		"one has an older version":   {heal.Deletion{Info: info, Keepers: []string{"a", "b"}, Proof: proof(5, 4), Asked: now, Map: 3}, 3, true, false},
		"it is our own to keep":      {heal.Deletion{Info: info, Keepers: []string{"a", "self"}, Proof: proof(5, 5), Asked: now, Map: 3}, 3, true, false},
		"the answers are old":        {heal.Deletion{Info: info, Keepers: []string{"a", "b"}, Proof: proof(5, 5), Asked: now.Add(-time.Minute), Map: 3}, 3, true, false},
		"the map has changed":        {heal.Deletion{Info: info, Keepers: []string{"a", "b"}, Proof: proof(5, 5), Asked: now, Map: 3}, 4, true, false},
		"the lease is over":          {heal.Deletion{Info: info, Keepers: []string{"a", "b"}, Proof: proof(5, 5), Asked: now, Map: 3}, 3, false, false},
		"a tombstone that all know":  {heal.Deletion{Info: grave, Keepers: []string{"a", "b", "self"}, Proof: proof(5, 0), Asked: now, Map: 3}, 3, true, true},
		"a tombstone and an old one": {heal.Deletion{Info: grave, Keepers: []string{"a", "b", "self"}, Proof: proof(5, 4), Asked: now, Map: 3}, 3, true, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			log, err := audit.Open(t.TempDir(), "self")
			require.NoError(t, err)
			defer log.Close()
			dropped := false
			d := heal.Deletes{
				Log: log, Gate: &heal.Gate{}, Leased: func() bool { return c.leased }, Version: func() int64 { return c.version },
				Drop: func(context.Context, string, string, uint64) error { dropped = true; return nil },
			}
			n, err := d.Do(t.Context(), "self", []heal.Deletion{c.deletion})
			assert.Equal(t, c.dropped, dropped)
			if c.dropped {
				require.NoError(t, err)
				assert.Equal(t, 1, n)
				return
			}
			require.ErrorIs(t, err, heal.ErrNoProof)
		})
	}
}

// Without a line in the audit log nothing goes.
func TestNothingIsDeletedWithoutItsLineInTheLog(t *testing.T) {
	log, err := audit.Open(t.TempDir(), "self")
	require.NoError(t, err)
	require.NoError(t, log.Close())
	d := heal.Deletes{
		Log: log, Gate: &heal.Gate{}, Leased: func() bool { return true }, Version: func() int64 { return 1 },
		Drop: func(context.Context, string, string, uint64) error { t.Error("dropped"); return nil },
	}
	_, err = d.Do(t.Context(), "self", []heal.Deletion{{
		Info: store.Info{Bucket: "b", Name: "k", Version: 1}, Keepers: []string{"a"}, Proof: map[string]uint64{"a": 1}, Asked: time.Now(), Map: 1,
	}})
	require.Error(t, err)
}

func TestAGateIsQuietOnceOlderCommitsHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g heal.Gate
		version := int64(5)
		at, leave := g.Enter(func() int64 { return version })
		require.EqualValues(t, 5, at)
		version = 6
		_, leaveNewer := g.Enter(func() int64 { return version })
		defer leaveNewer()
		quiet := false
		go func() { assert.NoError(t, g.Quiet(t.Context(), 6)); quiet = true }()
		synctest.Wait()
		assert.False(t, quiet, "while a commit by an older map is under way")
		leave()
		leave() // twice is once
		synctest.Wait()
		assert.True(t, quiet)
		_, leave = g.Enter(func() int64 { return version })
		defer leave()
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough")
		cancel(why)
		assert.ErrorIs(t, g.Quiet(ctx, 7), why)
	})
}

func TestUnsettled(t *testing.T) {
	nodes := func(change func(n map[string]*api.Node)) []api.Node {
		list := []api.Node{{ID: "a"}, {ID: "b"}, {ID: "c"}}
		byID := map[string]*api.Node{}
		for i := range list {
			list[i].Role, list[i].State, list[i].Weight = api.RoleTarget, api.StateOK, 1
			byID[list[i].ID] = &list[i]
		}
		change(byID)
		return list
	}
	away := func(ids ...string) func(map[string]*api.Node) {
		return func(n map[string]*api.Node) {
			for _, id := range ids {
				n[id].Away, n[id].State = true, api.StateDown
			}
		}
	}
	epoch := func(ids ...string) []api.Epoch {
		e := api.Epoch{Version: 1}
		for _, id := range ids {
			e.Targets = append(e.Targets, api.Member{ID: id, Weight: 1})
		}
		return []api.Epoch{e}
	}
	done := func(r *heal.Report) {}
	cases := map[string]struct {
		nodes   []api.Node
		former  []api.Epoch
		mirror  int
		report  func(*heal.Report)
		settled bool
	}{
		"all is done":                                {nodes(func(map[string]*api.Node) {}), epoch("a", "b"), 2, done, true},
		"one works":                                  {nodes(func(map[string]*api.Node) {}), epoch("a", "b"), 2, func(r *heal.Report) { r.Placed = false }, false},
		"one has copies that are to go":              {nodes(func(map[string]*api.Node) {}), epoch("a", "b"), 2, func(r *heal.Report) { r.Clean = false }, false},
		"one is at another goal":                     {nodes(func(map[string]*api.Node) {}), epoch("a", "b"), 2, func(r *heal.Report) { r.Goal = "other" }, false},
		"one is down":                                {nodes(func(n map[string]*api.Node) { n["a"].State = api.StateDown }), epoch("a", "b"), 2, done, false},
		"one of two copies may be away":              {nodes(away("c")), epoch("a", "b", "c"), 2, done, true},
		"both may be":                                {nodes(away("b", "c")), epoch("a", "b", "c"), 2, done, false},
		"one is away and another lost what it had":   {nodes(func(n map[string]*api.Node) { away("c")(n); n["b"].Bare = true }), epoch("a", "b", "c"), 2, done, false},
		"one is away and another was removed":        {nodes(away("c")), epoch("a", "b", "c", "gone"), 2, done, false},
		"what is lost on all that are there is":      {nodes(func(n map[string]*api.Node) { n["a"].Bare, n["b"].Bare = true, true }), epoch("a", "b"), 2, done, true},
		"single copies wait for their owner":         {nodes(away("c")), epoch("a", "b", "c"), 1, done, true},
		"but not where it has others' share":         {nodes(away("c")), epoch("b", "c"), 1, done, false},
		"three copies, two away":                     {nodes(away("b", "c")), epoch("a", "b", "c"), 3, done, true},
		"a degraded write may be on the one that is": {nodes(away("c")), epoch("c"), 2, done, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := heal.State{
				Placer:  api.NewPlacer(api.Map{Version: 4, Since: 4, Nodes: c.nodes, Former: c.former}),
				Buckets: []heal.Bucket{{Bucket: api.Bucket{Name: "bucket", Mirror: c.mirror}, Identity: 1}},
			}
			reports := map[string]heal.Report{}
			for _, id := range []string{"a", "b", "c"} {
				reports[id] = heal.Report{Goal: s.Goal(), Placed: true, Clean: true}
			}
			r := reports["a"]
			c.report(&r)
			reports["a"] = r
			reasons := heal.Unsettled(s, reports)
			assert.Equal(t, c.settled, len(reasons) == 0, "%v", reasons)
		})
	}
}
