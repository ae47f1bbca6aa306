package faults

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	killRounds  = 20
	killObjects = 500
)

// written is an object that the cluster acknowledged.
type written struct {
	key  string
	body []byte
	etag string
}

// TestAcknowledgedObjectsSurviveKills kills a random node in each of 20 rounds while objects are
// put. What was acknowledged reads back identical, and no debris is left.
func TestAcknowledgedObjectsSurviveKills(t *testing.T) {
	random := seeded(t)
	c := start(t, t.TempDir(), "--targets", "3", "--disks", "2")
	_, err := c.client.CreateBucket(t.Context(), "kills")
	require.NoError(t, err)
	nodes := c.status().Nodes

	var acknowledged []written
	refused := 0
	for round := range killRounds {
		batch := make([]written, killObjects/killRounds)
		for i := range batch {
			batch[i] = randomObject(t, random, fmt.Sprintf("round-%02d/%03d", round, i))
		}
		victim, after := nodes[random.IntN(len(nodes))].ID, time.Duration(random.Int64N(int64(60*time.Millisecond)))
		before := c.pid(victim)
		var group errgroup.Group
		group.SetLimit(5)
		group.Go(func() error {
			time.Sleep(after) // the moment of the kill is what is random here
			return syscall.Kill(before, syscall.SIGKILL)
		})
		ok := make([]bool, len(batch))
		for i := range batch {
			group.Go(func() error {
				object, err := c.client.PutObject(t.Context(), "kills", batch[i].key, bytes.NewReader(batch[i].body), int64(len(batch[i].body)), api.PutOptions{})
				ok[i], batch[i].etag = err == nil, object.ETag
				if err != nil {
					t.Logf("round %d: %s was not acknowledged: %v", round, batch[i].key, err)
				}
				return nil
			})
		}
		require.NoError(t, group.Wait())
		for i, w := range batch {
			if ok[i] {
				acknowledged = append(acknowledged, w)
			} else {
				refused++
			}
		}
		c.eventually(victim+" was not started again", func() bool { now := c.pid(victim); return now != 0 && now != before })
	}
	c.awaitOK()
	t.Logf("%d objects acknowledged, %d not", len(acknowledged), refused)
	require.Greater(t, len(acknowledged), killObjects*9/10, "a client must ride over a restart")

	for _, w := range acknowledged {
		object, body := c.read("kills", w.key)
		require.Equal(t, w.etag, object.ETag, w.key)
		require.True(t, bytes.Equal(w.body, body), "%s reads back changed", w.key)
	}
	require.GreaterOrEqual(t, c.sound(), int64(len(acknowledged)))
	c.listed("kills", acknowledged, refused)
}

// randomObject has 1 B to 256 KiB, and is a shard now and then.
func randomObject(t *testing.T, random *rand.Rand, key string) written {
	t.Helper()
	if random.IntN(5) == 0 {
		return written{key: key + ".tar", body: shard(t, random.Uint64(), 1+random.IntN(20), 1+random.IntN(10_000))}
	}
	return written{key: key, body: randomBytes(random.Uint64(), 1<<random.IntN(19))}
}

// read reads a whole object.
func (c *cluster) read(bucket, key string) (api.Object, []byte) {
	c.t.Helper()
	reader, err := c.client.GetObject(c.t.Context(), bucket, key, api.GetOptions{})
	require.NoError(c.t, err, key)
	defer reader.Close()
	body, err := io.ReadAll(reader)
	require.NoError(c.t, err, key)
	return reader.Object, body
}

// listed asserts that the listing holds all acknowledged objects, each once, and at most as many
// others as were refused: those may have been stored before the answer was lost.
func (c *cluster) listed(bucket string, acknowledged []written, refused int) {
	c.t.Helper()
	times := map[string]int{}
	for object, err := range c.client.Objects(c.t.Context(), bucket, api.ListOptions{}) {
		require.NoError(c.t, err)
		times[object.Name]++
	}
	for _, w := range acknowledged {
		require.Equal(c.t, 1, times[w.key], w.key)
	}
	require.LessOrEqual(c.t, len(times), len(acknowledged)+refused)
}

// TestKilledSupervisorLosesNothing kills the supervisor, and so all nodes at once.
func TestKilledSupervisorLosesNothing(t *testing.T) {
	dir := t.TempDir()
	c := start(t, dir, "--targets", "2")
	c.mustRun("bucket", "create", "all")
	want := map[string][]byte{}
	for i := range 20 {
		key := fmt.Sprintf("object-%02d", i)
		want[key] = randomBytes(uint64(i), 10_000)
		_, err := c.client.PutObject(t.Context(), "all", key, bytes.NewReader(want[key]), 10_000, api.PutOptions{})
		require.NoError(t, err)
	}
	require.NoError(t, syscall.Kill(c.pid("supervisor"), syscall.SIGKILL))
	c.mustRun("up", "--detach", "--dir", dir)
	for key, body := range want {
		_, got := c.read("all", key)
		require.Equal(t, body, got, key)
	}
	require.EqualValues(t, len(want), c.sound())
}
