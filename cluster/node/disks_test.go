package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/node"
)

// diskCluster is a cluster of one target with three disks, and which of its objects is on which.
func diskCluster(t *testing.T) (*clustertest.Cluster, map[string][]string) {
	t.Helper()
	c := clustertest.Start(t, clustertest.Options{
		Targets: 1, Disks: 3, Settings: node.Settings{ProbeEvery: 50 * time.Millisecond},
	})
	_, err := c.Client.CreateBucket(t.Context(), "data")
	require.NoError(t, err)
	at := map[string][]string{}
	for i := range 30 {
		name := fmt.Sprintf("o%02d", i)
		_, err := c.Client.PutObject(t.Context(), "data", name, bytes.NewReader([]byte(name)), 3, api.PutOptions{})
		require.NoError(t, err)
		where, err := c.Client.Locate(t.Context(), "data", name)
		require.NoError(t, err)
		at[where.Copies[0].Disk] = append(at[where.Copies[0].Disk], name)
	}
	require.Len(t, at, 3)
	return c, at
}

func diskOf(t *testing.T, c *clustertest.Cluster, id string) api.Disk {
	t.Helper()
	disks, err := c.Client.Disks(t.Context(), "target-1")
	require.NoError(t, err)
	for _, d := range disks {
		if d.ID == id {
			return d
		}
	}
	return api.Disk{}
}

// statusOf is the HTTP status of a read, by a client that does not try again.
func statusOf(t *testing.T, client *api.Client, name string) int {
	t.Helper()
	_, err := client.StatObject(t.Context(), "data", name)
	var answer *api.Error
	if errors.As(err, &answer) {
		return answer.Status
	}
	require.NoError(t, err)
	return 200
}

// requireAll awaits the status of each object. Where the target tells the cluster of a change of its disks, reads may
// have to wait for the new map, and answer 503 until then: what is to be 503 must be so each time.
func requireAll(t *testing.T, c *clustertest.Cluster, client *api.Client, status int, names []string) {
	t.Helper()
	for _, name := range names {
		if status == http.StatusServiceUnavailable {
			require.Equal(t, status, statusOf(t, client, name), name)
		} else {
			c.Await(fmt.Sprintf("%s answers %d", name, status), func() bool { return statusOf(t, client, name) == status })
		}
	}
}

// TestTargetWithoutADisk: a disk is empty when a target starts, as one that is not mounted. The target starts with the
// others and says so; the disk's objects answer 503, and 404 only once somebody has said that the disk is another one.
func TestTargetWithoutADisk(t *testing.T) {
	c, at := diskCluster(t)
	client := c.NewClient(api.Options{RetryFor: -1})
	n := c.Targets[0]
	n.Stop()
	bad := n.Config.DataDirs[1]
	require.NoError(t, os.RemoveAll(bad))
	require.NoError(t, os.Mkdir(bad, 0o700))
	n.Start()
	_, err := client.RefreshMap(t.Context())
	require.NoError(t, err)
	d := diskOf(t, c, "disk-2")
	require.Equal(t, api.DiskFailed, d.State)
	require.Contains(t, d.Reason, "is it mounted?")
	require.NoFileExists(t, filepath.Join(bad, "FORMAT"))
	status, err := c.Client.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, api.StateDegraded, status.State)
	m, err := c.Client.RefreshMap(t.Context())
	require.NoError(t, err)
	self, _ := m.Map.Node("target-1")
	require.True(t, self.Bare, "it has less than it had")
	requireAll(t, c, client, 200, at["disk-1"])
	requireAll(t, c, client, 200, at["disk-3"])
	requireAll(t, c, client, 503, at["disk-2"])
	require.Equal(t, 503, statusOf(t, client, "never"))
	_, err = client.ListObjects(t.Context(), "data", api.ListOptions{})
	require.Error(t, err, "a listing is complete or an error")

	_, err = c.Client.ChangeDisk(t.Context(), "target-1", "disk-2", api.DiskChange{State: api.StateOK})
	require.ErrorContains(t, err, "is it mounted?")
	d, err = c.Client.ChangeDisk(t.Context(), "target-1", "disk-2", api.DiskChange{State: api.StateOK, Anew: true})
	require.NoError(t, err)
	require.Equal(t, api.StateOK, d.State)
	requireAll(t, c, client, 404, at["disk-2"])
	list, err := c.Client.ListObjects(t.Context(), "data", api.ListOptions{})
	require.NoError(t, err)
	require.Len(t, list.Objects, 30-len(at["disk-2"]))
	restart(t, n, client)
	require.Equal(t, api.StateOK, diskOf(t, c, "disk-2").State)
	requireAll(t, c, client, 200, at["disk-1"])
}

// TestDisksAtRunTime adds, disables, enables and removes disks of a target, and starts it again in between.
func TestDisksAtRunTime(t *testing.T) {
	c, at := diskCluster(t)
	client := c.NewClient(api.Options{RetryFor: -1})
	n := c.Targets[0]
	ctx := t.Context()
	extra := filepath.Join(t.TempDir(), "extra")
	d, err := client.AddDisk(ctx, "target-1", api.NewDisk{Path: extra})
	require.NoError(t, err)
	require.Equal(t, []string{"extra", extra, api.StateOK}, []string{d.ID, d.Path, d.State})
	_, err = client.AddDisk(ctx, "target-1", api.NewDisk{Path: extra})
	requireCode(t, err, api.CodeExists)
	_, err = client.AddDisk(ctx, "target-1", api.NewDisk{Path: "relative"})
	requireCode(t, err, api.CodeBadRequest)
	full := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "thesis.doc"), nil, 0o600))
	_, err = client.AddDisk(ctx, "target-1", api.NewDisk{Path: full})
	requireCode(t, err, api.CodeRefused)
	require.ErrorContains(t, err, "thesis.doc")
	_, err = client.Disks(ctx, "target-9")
	requireCode(t, err, api.CodeNotFound)
	_, err = client.ChangeDisk(ctx, "target-1", "disk-9", api.DiskChange{State: api.DiskDisabled})
	requireCode(t, err, api.CodeNotFound)
	_, err = client.ChangeDisk(ctx, "target-1", "disk-2", api.DiskChange{State: "upside-down"})
	requireCode(t, err, api.CodeBadRequest)

	_, err = client.ChangeDisk(ctx, "target-1", "disk-2", api.DiskChange{State: api.DiskDisabled})
	require.NoError(t, err)
	requireAll(t, c, client, 503, at["disk-2"])
	requireCode(t, client.RemoveDisk(ctx, "target-1", "disk-2", false), api.CodeRefused)
	restart(t, n, client)
	require.Equal(t, api.DiskDisabled, diskOf(t, c, "disk-2").State, "also after a restart")
	require.Equal(t, api.StateOK, diskOf(t, c, "extra").State, "though the node was not started with it")
	requireAll(t, c, client, 503, at["disk-2"])
	_, err = client.ChangeDisk(ctx, "target-1", "disk-2", api.DiskChange{State: api.StateOK})
	require.NoError(t, err)
	requireAll(t, c, client, 200, at["disk-2"])

	require.NoError(t, client.RemoveDisk(ctx, "target-1", "disk-2", false))
	c.Await("the disk is removed", func() bool { return diskOf(t, c, "disk-2").ID == "" })
	for _, names := range at {
		requireAll(t, c, client, 200, names)
	}
	restart(t, n, client)
	require.Empty(t, diskOf(t, c, "disk-2").ID, "though the node is started with it")
	for _, names := range at {
		requireAll(t, c, client, 200, names)
	}
	report, err := client.Fsck(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 30, report.Objects)
	require.Empty(t, report.Missing)
	require.Empty(t, report.Stray)
	require.NoError(t, client.RemoveDisk(ctx, "target-1", "disk-3", true), "by force, with what it has")
	lost := 0
	for _, names := range at {
		for _, name := range names {
			if statusOf(t, client, name) == 404 {
				lost++
			}
		}
	}
	require.Positive(t, lost)
}

// restart stops a node and starts it; it has another port then, as clients learn from the map.
func restart(t *testing.T, n *clustertest.Node, client *api.Client) {
	t.Helper()
	n.Stop()
	n.Start()
	_, err := client.RefreshMap(t.Context())
	require.NoError(t, err)
}

func requireCode(t *testing.T, err error, code string) {
	t.Helper()
	var answer *api.Error
	require.ErrorAs(t, err, &answer)
	require.Equal(t, code, answer.Code, answer.Message)
}

// TestFirstDiskVanishes: the disk with a target's own files is removed under its hands. The target starts anew with
// another, at the same address, without anybody's help.
func TestFirstDiskVanishes(t *testing.T) {
	c, at := diskCluster(t)
	client := c.NewClient(api.Options{RetryFor: -1})
	n := c.Targets[0]
	require.NoError(t, os.Rename(n.Config.DataDirs[0], filepath.Join(t.TempDir(), "elsewhere")))
	c.Await("the target goes on without it", func() bool {
		disks, err := client.Disks(t.Context(), "target-1")
		if err != nil {
			return false
		}
		status, err := client.Status(t.Context())
		return err == nil && status.State == api.StateDegraded && disks[0].State == api.DiskFailed &&
			fileExists(filepath.Join(n.Config.DataDirs[1], "snapshots"))
	})
	requireAll(t, c, client, 200, at["disk-2"])
	requireAll(t, c, client, 200, at["disk-3"])
	requireAll(t, c, client, 503, at["disk-1"])
	_, err := client.PutObject(t.Context(), "data", at["disk-1"][0], bytes.NewReader([]byte("new")), 3, api.PutOptions{})
	require.NoError(t, err)
	requireAll(t, c, client, 200, at["disk-1"][:1])
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
