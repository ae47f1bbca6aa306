package faults

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

// holders counts the machines that have a file with an object of that name in it: data files name their objects.
func (f *fleet) holders(key string) (count int) {
	f.t.Helper()
	for _, m := range f.targets() {
		found := false
		for _, dir := range m.dirs {
			_ = filepath.WalkDir(filepath.Join(dir, "data"), func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() || found { // files come and go meanwhile
					return nil
				}
				content, _ := os.ReadFile(path)
				found = bytes.Contains(content, []byte(key))
				return nil
			})
		}
		if found {
			count++
		}
	}
	return count
}

// TestWipedNodes: a target loses all its disks and comes back empty. All is back at full redundancy, counted from the files
// on disk; then another is killed, and everything is still read.
func TestWipedNodes(t *testing.T) {
	f := startFleet(t, 2, 4)
	underFaults(t, f, func(random *rand.Rand) {
		f.awaitSettled()
		wiped, killed := twoOf(random, f.targets())
		f.signal(wiped, syscall.SIGKILL)
		for _, dir := range wiped.dirs {
			require.NoError(t, os.RemoveAll(dir))
		}
		pause(random, 0, 4*time.Second)
		began, before := time.Now(), f.mapVersion()
		f.start(wiped)
		f.eventually(wiped.id+" does not register", func() bool { return f.mapVersion() > before })
		f.awaitSettled()
		t.Logf("%s was wiped, and is full again after %v", wiped.id, time.Since(began).Round(time.Millisecond))
		for _, e := range sampleOf(random, ledgerOf(t, filepath.Join(f.dir, "ledger.jsonl"))) {
			require.GreaterOrEqual(t, f.holders(e.Key), 2, "%s has too few copies on disk", e.Key)
		}
		f.signal(killed, syscall.SIGKILL)
		pause(random, 2*time.Second, 4*time.Second) // the clients read on: see readLedger
		f.start(killed)
	})
}

// mapVersion is that of the cluster map, which each registration of a target raises.
func (f *fleet) mapVersion() int64 {
	status, err := f.client.Status(f.t.Context())
	require.NoError(f.t, err)
	return status.Map
}

// sampleOf draws some entries.
func sampleOf(random *rand.Rand, entries []entry) []entry {
	var some []entry
	for range min(5, len(entries)) {
		some = append(some, entries[random.IntN(len(entries))])
	}
	return some
}

// TestJoinAndDrain: targets join, and others are drained and taken out, one after the other, under clients: no read fails,
// and listings are whole all the time.
func TestJoinAndDrain(t *testing.T) {
	f := startFleet(t, 1, 3)
	joined := 3
	underFaults(t, f, func(random *rand.Rand) {
		joined++
		leaving := anyOf(random, f.targets())
		f.add(fmt.Sprintf("target-%d", joined), api.RoleTarget, freeAddr(t), "")
		_, err := f.client.Drain(t.Context(), leaving.id, true)
		require.NoError(t, err)
		f.eventually(leaving.id+" is not drained", func() bool {
			node, err := f.client.Node(t.Context(), leaving.id)
			return err == nil && node.Drained
		})
		require.NoError(t, f.client.RemoveNode(t.Context(), leaving.id, false))
		select {
		case <-leaving.ended:
		case <-time.After(30 * time.Second):
			require.Fail(t, leaving.id+" goes on though it was removed")
		}
		f.nodes = slices.DeleteFunc(f.nodes, func(m *machine) bool { return m == leaving })
		_ = leaving.log.Close()
	})
}
