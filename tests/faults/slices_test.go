package faults

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

// pairRounds is how many pairs of targets are lost; all fifteen are in cluster/slices, without processes.
const pairRounds = 2

// TestAnyTwoTargetsOfSixHang stops two of six targets in each round: objects in 4+2 slices, of which nobody has a whole
// copy, read without them. At the end two are killed, and everything is complete again.
func TestAnyTwoTargetsOfSixHang(t *testing.T) {
	random := seeded(t)
	c := start(t, t.TempDir(), "--targets", "6", "--disks", "1")
	_, err := c.client.CreateBucketWith(t.Context(), "slices", api.BucketChange{EC: &api.EC{Data: 4, Parity: 2}})
	require.NoError(t, err)
	objects := make([]written, 12)
	for i := range objects {
		w := written{key: fmt.Sprintf("%02d", i), body: make([]byte, api.SmallObject+1+random.IntN(1<<20))}
		for k := range w.body {
			w.body[k] = byte(random.Uint32())
		}
		c.eventually("the targets know of each other", func() bool {
			o, err := c.client.PutObject(t.Context(), "slices", w.key, bytes.NewReader(w.body), int64(len(w.body)), api.PutOptions{})
			w.etag = o.ETag
			return err == nil
		})
		objects[i] = w
	}
	unchanged := func() {
		for _, w := range objects {
			object, body := c.read("slices", w.key)
			require.Equal(t, w.etag, object.ETag, w.key)
			require.True(t, bytes.Equal(w.body, body), "%s reads back changed", w.key)
		}
	}
	pair := func(signal syscall.Signal) []int {
		order := random.Perm(6)[:2]
		var pids []int
		for _, n := range order {
			pid := c.pid(fmt.Sprintf("target-%d", n+1))
			require.NotZero(t, pid)
			require.NoError(t, syscall.Kill(pid, signal))
			pids = append(pids, pid)
		}
		t.Logf("signal %v for %v", signal, order)
		return pids
	}
	for range pairRounds {
		c.eventually("the whole copies are evicted", func() bool {
			done, err := c.client.Evict(t.Context(), "slices", "")
			return err == nil && done.Kept == 0
		})
		stopped := pair(syscall.SIGSTOP)
		c.eventually("two targets are away", func() bool {
			placer, err := c.client.RefreshMap(t.Context())
			if err != nil {
				return false
			}
			away := 0
			for _, n := range placer.Map.Targets() {
				if n.Away {
					away++
				}
			}
			return away == 2
		})
		unchanged()
		for _, pid := range stopped {
			require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
		}
		c.awaitOK()
	}
	pair(syscall.SIGKILL)
	unchanged()
	c.awaitOK()
	c.eventually("everything is complete", func() bool {
		code, _ := c.fsck()
		return code == 0
	})
	unchanged()
}
