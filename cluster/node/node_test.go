package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/node"
)

func TestConfigFaultsAreAllNamed(t *testing.T) {
	for _, c := range []struct {
		name   string
		config node.Config
		want   []string
	}{
		{"nothing", node.Config{}, []string{"role", "listen address"}},
		{"target alone", node.Config{Role: "target", Listen: "127.0.0.1:0"}, []string{"data directory", "gateway to join"}},
		{
			"all wrong",
			node.Config{ID: "../x", Role: "target", Listen: "127.0.0.1:99999", Join: "localhost", Weight: -1},
			[]string{"node id", "not a port", "join", "weight"},
		},
		{"other addresses", node.Config{Role: "gateway", Listen: "0.0.0.0:0", DataDirs: []string{"d"}}, []string{"--insecure"}},
		{"no address", node.Config{Role: "gateway", Listen: ":7070", DataDirs: []string{"d"}}, []string{"--insecure"}},
		{"a name", node.Config{Role: "gateway", Listen: "example.org:7070", DataDirs: []string{"d"}}, []string{"--insecure"}},
		{"two directories", node.Config{Role: "gateway", Listen: "127.0.0.1:0", DataDirs: []string{"a", "b"}}, []string{"one data directory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := node.Run(t.Context(), c.config)
			require.Error(t, err)
			for _, want := range c.want {
				assert.ErrorContains(t, err, want)
			}
		})
	}
}

func TestDirectoriesBelongToOneNode(t *testing.T) {
	dir := t.TempDir()
	run := func(c node.Config) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c.Listen = "127.0.0.1:0"
		c.Ready = func(api.Node) { cancel() }
		return node.Run(ctx, c)
	}
	require.NoError(t, run(node.Config{Role: api.RoleGateway, DataDirs: []string{filepath.Join(dir, "g")}}))
	first, err := os.ReadFile(filepath.Join(dir, "g", "node.json"))
	require.NoError(t, err)
	require.NoError(t, run(node.Config{Role: api.RoleGateway, DataDirs: []string{filepath.Join(dir, "g")}}))
	second, err := os.ReadFile(filepath.Join(dir, "g", "node.json"))
	require.NoError(t, err)
	assert.Equal(t, first, second, "the made-up id stays")

	assert.ErrorContains(t, run(node.Config{ID: "gateway-9", Role: api.RoleGateway, DataDirs: []string{filepath.Join(dir, "g")}}), "belongs to")
	assert.ErrorContains(t, run(node.Config{Role: api.RoleTarget, Join: "http://127.0.0.1:1", DataDirs: []string{filepath.Join(dir, "g")}}), "belongs to")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "g", "node.json"), []byte("{"), 0o600))
	assert.ErrorContains(t, run(node.Config{Role: api.RoleGateway, DataDirs: []string{filepath.Join(dir, "g")}}), "damaged")
}

func put(t testing.TB, c *clustertest.Cluster, key, data string) {
	t.Helper()
	_, err := c.Client.PutObject(t.Context(), "b", key, strings.NewReader(data), int64(len(data)), api.PutOptions{})
	require.NoError(t, err)
}

func get(t testing.TB, c *api.Client, key string) string {
	t.Helper()
	r, err := c.GetObject(t.Context(), "b", key, api.GetOptions{})
	require.NoError(t, err, key)
	defer func() { assert.NoError(t, r.Close()) }()
	data, err := io.ReadAll(r)
	require.NoError(t, err, key)
	return string(data)
}

func key(i int) string { return fmt.Sprintf("object-%03d", i) }

func names(t testing.TB, c *api.Client) []string {
	t.Helper()
	var list []string
	for object, err := range c.Objects(t.Context(), "b", api.ListOptions{Limit: 7}) {
		require.NoError(t, err)
		list = append(list, object.Name)
	}
	return list
}

func TestRestartKeepsDataAndIdentity(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Gateways: 2})
	_, err := cluster.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	for i := range 40 {
		put(t, cluster, key(i), key(i))
	}
	before, err := cluster.Client.Status(t.Context())
	require.NoError(t, err)
	check := func() {
		t.Helper()
		for i := range 40 {
			assert.Equal(t, key(i), get(t, cluster.Client, key(i)))
		}
		assert.Len(t, names(t, cluster.Client), 40)
		status, err := cluster.Client.Status(t.Context())
		require.NoError(t, err)
		assert.Equal(t, before.Cluster, status.Cluster)
		assert.Len(t, status.Nodes, len(before.Nodes))
	}
	for _, n := range cluster.Targets { // each comes back on another port
		n.Stop()
		n.Start()
		check()
	}
	cluster.Gateways[0].Stop()
	other := cluster.NewClient(api.Options{Endpoint: "http://" + cluster.Gateways[1].Addr()})
	assert.Equal(t, key(7), get(t, other, key(7)), "data flows while the gateway with etcd is away")
	cluster.Gateways[0].Start()
	cluster.Await("the control plane is back", func() bool {
		_, err := other.CreateBucket(t.Context(), "second")
		var answer *api.Error
		return err == nil || errors.As(err, &answer) && answer.Code == api.CodeExists
	})
	check()

	cluster.Stop() // all at once, and back
	for _, n := range cluster.Gateways {
		n.Start()
	}
	for _, n := range cluster.Targets {
		n.Start()
	}
	check()
}

// A target that joins late takes over names whose objects lie elsewhere until they have been moved, which is stopped here:
// all stay readable, nothing is seen twice, and what is written or deleted now is not contradicted by what was there
// before. Once they are moved, each has one copy, where it belongs.
func TestJoinWithObjectsInPlace(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1, Settings: node.Settings{DeleteGrace: 100 * time.Millisecond}})
	_, err := cluster.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	const n = 60
	for i := range n {
		put(t, cluster, key(i), "old")
	}
	_, err = cluster.Client.StopRebalance(t.Context())
	require.NoError(t, err)
	joined := cluster.AddTarget()
	cluster.Await("the gateway has seen it join", func() bool {
		m, err := cluster.Client.RefreshMap(t.Context())
		return err == nil && len(m.Map.Former) == 1 && len(m.Map.Former[0].Targets) == 2
	})
	var moved []string
	for i := range n {
		if cluster.Owner("b", key(i)) == joined {
			moved = append(moved, key(i))
		}
	}
	require.Greater(t, len(moved), 6)
	location, err := cluster.Client.Locate(t.Context(), "b", moved[0])
	require.NoError(t, err)
	require.Len(t, location.Copies, 1)
	assert.NotEqual(t, joined.ID, location.Copies[0].Node)
	unread := moved[3:] // what is read has a copy at its new owner from then on
	for i := range n {
		if !slices.Contains(unread, key(i)) {
			assert.Equal(t, "old", get(t, cluster.Client, key(i)))
		}
	}
	assert.Len(t, names(t, cluster.Client), n)

	// The client's map may be old: what it asks of an earlier owner is sent on.
	response, err := http.Get("http://" + cluster.Targets[0].Addr() + api.ObjectPath("b", moved[0]))
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, errors.Join(err, response.Body.Close()))
	assert.Equal(t, "old", string(body))

	put(t, cluster, moved[0], "new")
	assert.Equal(t, "new", get(t, cluster.Client, moved[0]))
	require.NoError(t, cluster.Client.DeleteObject(t.Context(), "b", moved[0]))
	gone(t, cluster, moved[0])
	require.NoError(t, cluster.Client.DeleteObject(t.Context(), "b", moved[1]))
	gone(t, cluster, moved[1])
	assert.Len(t, names(t, cluster.Client), n-2)

	for _, c := range []struct {
		key  string
		o    api.PutOptions
		code string
	}{
		{moved[2], api.PutOptions{IfNoneMatch: "*"}, api.CodePrecondition},
		{moved[2], api.PutOptions{IfMatch: `"another"`}, api.CodePrecondition},
		{moved[1], api.PutOptions{IfNoneMatch: "*"}, ""},
	} {
		_, err := cluster.Client.PutObject(t.Context(), "b", c.key, strings.NewReader("x"), 1, c.o)
		if c.code == "" {
			require.NoError(t, err)
			continue
		}
		var answer *api.Error
		require.ErrorAs(t, err, &answer)
		assert.Equal(t, c.code, answer.Code)
	}

	// With an earlier owner away nobody can say what it held: no 404, and no deletion that it would undo.
	away := cluster.Target(location.Copies[0].Node)
	away.Stop()
	impatient := cluster.NewClient(api.Options{RetryFor: -1})
	refused := 0
	for _, key := range unread {
		if cluster.Owner("b", key) != joined {
			t.Fatal("the owner changed")
		}
		var answer *api.Error
		if _, err := impatient.StatObject(t.Context(), "b", key); err != nil {
			refused++
			require.ErrorAs(t, err, &answer)
			assert.Equal(t, api.CodeUnavailable, answer.Code)
			require.ErrorAs(t, impatient.DeleteObject(t.Context(), "b", key), &answer)
			assert.Equal(t, api.CodeUnavailable, answer.Code)
		}
	}
	assert.Positive(t, refused, "of %d that were elsewhere", len(unread))
	away.Start()
	for _, key := range unread {
		assert.Equal(t, "old", get(t, cluster.Client, key))
	}

	_, err = cluster.Client.StartRebalance(t.Context())
	require.NoError(t, err)
	cluster.Await("all is where it belongs", func() bool {
		m, err := cluster.Client.RefreshMap(t.Context())
		return err == nil && len(m.Map.Former) == 0
	})
	for _, key := range moved[1:] {
		location, err := cluster.Client.Locate(t.Context(), "b", key)
		require.NoError(t, err)
		require.Len(t, location.Copies, 1, key)
		assert.Equal(t, joined.ID, location.Copies[0].Node)
	}
	gone(t, cluster, moved[0])
	assert.Len(t, names(t, cluster.Client), n-1)
}

func gone(t testing.TB, c *clustertest.Cluster, key string) {
	t.Helper()
	_, err := c.Client.StatObject(t.Context(), "b", key)
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	assert.Equal(t, api.CodeNotFound, answer.Code)
}
