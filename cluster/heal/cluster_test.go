package heal_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/node"
)

const few = 40 // objects of each bucket

// fixture is a cluster with a bucket of single copies and a mirrored one.
type fixture struct {
	*clustertest.Cluster
	t *testing.T
}

func start(t *testing.T, targets int) *fixture {
	t.Helper()
	f := &fixture{t: t, Cluster: clustertest.Start(t, clustertest.Options{Targets: targets, Settings: node.Settings{
		HealAfter: 200 * time.Millisecond, DeleteGrace: 200 * time.Millisecond, TombstoneGrace: 500 * time.Millisecond,
	}})}
	f.bucket("single", 1)
	f.bucket("mirrored", 2)
	return f
}

func (f *fixture) bucket(name string, mirror int) {
	f.t.Helper()
	_, err := f.Client.CreateBucketWith(f.t.Context(), name, api.BucketChange{Mirror: &mirror})
	require.NoError(f.t, err)
	for i := range few {
		f.put(name, i)
	}
}

func body(bucket string, i int) []byte { return bytes.Repeat([]byte(bucket+name(i)), 1+i*40) }

func (f *fixture) put(bucket string, i int) {
	f.t.Helper()
	b := body(bucket, i)
	_, err := f.Client.PutObject(f.t.Context(), bucket, name(i), bytes.NewReader(b), int64(len(b)), api.PutOptions{})
	require.NoError(f.t, err)
}

// check reads all objects and their listing.
func (f *fixture) check(bucket string) {
	f.t.Helper()
	for i := range few {
		r, err := f.Client.GetObject(f.t.Context(), bucket, name(i), api.GetOptions{})
		require.NoError(f.t, err, "%s/%s", bucket, name(i))
		got, err := io.ReadAll(r)
		require.NoError(f.t, err)
		require.NoError(f.t, r.Close())
		require.Equal(f.t, body(bucket, i), got)
	}
	list, err := f.Client.ListObjects(f.t.Context(), bucket, api.ListOptions{})
	require.NoError(f.t, err)
	require.Len(f.t, list.Objects, few)
}

// settled waits until all is where the map wants it, and the map remembers nothing else.
func (f *fixture) settled(also func(m *api.Map) bool) {
	f.t.Helper()
	var last api.Rebalance
	defer func() {
		if f.t.Failed() {
			f.t.Logf("rebalance: %+v", last)
		}
	}()
	f.Await("all is where it belongs", func() bool {
		p, err := f.Client.RefreshMap(f.t.Context())
		if err != nil || !also(&p.Map) || len(p.Map.Former) > 0 {
			return false
		}
		last, err = f.Client.Rebalance(f.t.Context())
		return err == nil && last.State == api.RebalanceIdle
	})
}

func always(*api.Map) bool { return true }

// away stops a target and waits until it is taken for dead.
func (f *fixture) away(target *clustertest.Node) {
	f.t.Helper()
	target.Stop()
	f.Await("it is taken for dead", func() bool {
		p, err := f.Client.RefreshMap(f.t.Context())
		if err != nil {
			return false
		}
		n, _ := p.Map.Node(target.ID)
		return n.Away
	})
}

// files counts data files below directories.
func (f *fixture) files(dirs ...string) (n int) {
	f.t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(dir, "data"), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				n++
			}
			return err
		})
		require.NoError(f.t, err)
	}
	return n
}

func (f *fixture) copies(without ...string) (n int) {
	f.t.Helper()
	for _, target := range f.Targets {
		if !strings.Contains(strings.Join(without, " "), target.ID) {
			n += f.files(target.Config.DataDirs...)
		}
	}
	return n
}

func (f *fixture) sound() {
	f.t.Helper()
	report, err := f.Client.Fsck(f.t.Context())
	require.NoError(f.t, err)
	assert.Empty(f.t, report.Corrupt)
	assert.Empty(f.t, report.Missing)
	assert.Empty(f.t, report.Stray)
}

// deletes reads the audit logs.
func (f *fixture) deletes() (list []audit.Entry) {
	f.t.Helper()
	for _, target := range f.Targets {
		file, err := os.Open(filepath.Join(target.Config.DataDirs[0], "audit", audit.Name))
		require.NoError(f.t, err)
		for reader := bufio.NewReader(file); ; {
			line, err := reader.ReadBytes('\n')
			if errors.Is(err, io.EOF) { // what is there of a line without an end is being written
				break
			}
			require.NoError(f.t, err)
			var e audit.Entry
			require.NoError(f.t, json.Unmarshal(line, &e))
			list = append(list, e)
		}
		require.NoError(f.t, file.Close())
	}
	return list
}

func TestATargetThatJoinsGetsItsShare(t *testing.T) {
	f := start(t, 3)
	require.Equal(t, 3*few, f.copies())
	f.AddTarget()
	f.settled(func(m *api.Map) bool { return len(m.Targets()) == 4 })
	assert.Equal(t, 3*few, f.copies(), "copies on disk")
	assert.Positive(t, f.files(f.Targets[3].Config.DataDirs...))
	f.check("single")
	f.check("mirrored")
	f.sound()
	deletes := f.deletes()
	assert.NotEmpty(t, deletes)
	for _, e := range deletes {
		assert.Equal(t, audit.DropCopy, e.Action)
		assert.NotEmpty(t, e.Proof, "%+v", e)
		assert.NotContains(t, e.Proof, e.Node)
	}
}

func TestADrainedTargetIsEmptyAndMayGo(t *testing.T) {
	f := start(t, 4)
	_, err := f.Client.Drain(t.Context(), "target-2", true)
	require.NoError(t, err)
	f.settled(func(m *api.Map) bool { n, _ := m.Node("target-2"); return n.Drained })
	assert.Zero(t, f.files(f.Targets[1].Config.DataDirs...), "copies on the drained target")
	assert.Equal(t, 3*few, f.copies())
	f.Targets[1].Stop()
	require.NoError(t, f.Client.RemoveNode(t.Context(), "target-2", false))
	f.check("single")
	f.check("mirrored")
	f.sound()
}

func TestWhatAStoppedTargetHadIsCopiedAgain(t *testing.T) {
	f := start(t, 4)
	require.NoError(t, f.Client.DeleteBucket(t.Context(), "single", true))
	f.Targets[3].Stop()
	f.settled(func(m *api.Map) bool { n, _ := m.Node("target-4"); return n.Away })
	assert.Equal(t, 2*few, f.copies("target-4"), "copies on the others' disks")
	f.check("mirrored")
	f.sound()
	for i := range few / 2 {
		require.NoError(t, f.Client.DeleteObject(t.Context(), "mirrored", name(i)))
		f.put("mirrored", i)
	}
	f.Targets[3].Start()
	f.settled(func(m *api.Map) bool { n, _ := m.Node("target-4"); return !n.Away })
	assert.Equal(t, 2*few, f.copies())
	f.check("mirrored")
	f.sound()
}

func TestAWipedNodeIsFilledAgain(t *testing.T) {
	f := start(t, 4)
	require.NoError(t, f.Client.DeleteBucket(t.Context(), "single", true))
	victim := f.Targets[1]
	victim.Stop()
	for _, dir := range victim.Config.DataDirs {
		require.NoError(t, os.RemoveAll(dir))
	}
	victim.Start()
	f.settled(func(m *api.Map) bool { n, _ := m.Node(victim.ID); return n.State == api.StateOK && !n.Away && !n.Bare })
	assert.Equal(t, 2*few, f.copies(), "copies on disk")
	assert.Positive(t, f.files(victim.Config.DataDirs...))
	f.sound()
	f.away(f.Targets[2])
	f.check("mirrored")
}

func TestWhatWasOnAWipedDiskIsMadeAnewOnTheOthers(t *testing.T) {
	f := start(t, 3)
	require.NoError(t, f.Client.DeleteBucket(t.Context(), "single", true))
	victim := f.Targets[1]
	wiped := victim.Config.DataDirs[1]
	require.Positive(t, f.files(wiped))
	victim.Stop()
	entries, err := os.ReadDir(wiped)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, os.RemoveAll(filepath.Join(wiped, e.Name())))
	}
	victim.Start()
	f.settled(func(m *api.Map) bool { n, _ := m.Node(victim.ID); return n.State == api.StateOK && !n.Away && !n.Bare })
	f.Await("both copies of all are on the disks that are left", func() bool {
		return f.files(victim.Config.DataDirs[0])+f.copies(victim.ID) == 2*few
	})
	f.check("mirrored")
	f.away(f.Targets[0])
	f.check("mirrored")
}

func TestMoreCopiesAreMadeWhenABucketIsToHaveThem(t *testing.T) {
	f := start(t, 3)
	three := 3
	_, err := f.Client.ChangeBucket(t.Context(), "single", api.BucketChange{Mirror: &three})
	require.NoError(t, err)
	f.settled(func(*api.Map) bool {
		b, err := f.Client.Bucket(t.Context(), "single")
		return err == nil && len(b.Was) == 0
	})
	assert.Equal(t, 5*few, f.copies())
	f.check("single")
	f.sound()
	one := 1
	_, err = f.Client.ChangeBucket(t.Context(), "single", api.BucketChange{Mirror: &one})
	require.NoError(t, err)
	f.settled(func(*api.Map) bool {
		b, err := f.Client.Bucket(t.Context(), "single")
		return err == nil && len(b.Was) == 0
	})
	assert.Equal(t, 3*few, f.copies())
	f.check("single")
	f.sound()
}

func TestTombstonesGoOnceAllKnowOfTheDeletion(t *testing.T) {
	f := start(t, 3)
	for i := range few {
		require.NoError(t, f.Client.DeleteObject(t.Context(), "mirrored", name(i)))
	}
	f.Await("the tombstones are gone", func() bool {
		n := 0
		for _, e := range f.deletes() {
			if e.Action == audit.DropTombstone {
				n++
			}
		}
		return n == 2*few
	})
	f.settled(always)
	f.sound()
}

func TestStatusTellsOfARebalanceThatIsStopped(t *testing.T) {
	f := start(t, 3)
	r, err := f.Client.StopRebalance(t.Context())
	require.NoError(t, err)
	assert.Equal(t, api.RebalanceStopped, r.State)
	f.AddTarget()
	assert.Zero(t, f.files(f.Targets[3].Config.DataDirs...), "copies that moved nevertheless")
	f.check("single") // a copy that is read through its new primary comes along
	f.check("mirrored")
	status, err := f.Client.Status(t.Context())
	require.NoError(t, err)
	assert.Equal(t, api.RebalanceStopped, status.Rebalance.State)
	_, err = f.Client.StartRebalance(t.Context())
	require.NoError(t, err)
	f.settled(func(m *api.Map) bool { return len(m.Targets()) == 4 })
	assert.Equal(t, 3*few, f.copies())
	f.sound()
}

// Bytes are flipped on one target after the other: what has another copy is mended, and what has none is named.
func TestAScrubRepairsWhatItFinds(t *testing.T) {
	f := start(t, 3)
	lost := int64(0)
	for _, target := range f.Targets {
		f.flip(target.Config.DataDirs, 3)
		job := f.scrub(api.JobSpec{Kind: api.JobScrub, Scrub: &api.ScrubSpec{Bucket: "mirrored"}})
		assert.EqualValues(t, 2*few, job.Counts.Total)
		assert.EqualValues(t, 2*few, job.Counts.Done)
		assert.Zero(t, job.Counts.Failed)

		all := f.scrub(api.JobSpec{Kind: api.JobScrub})
		assert.EqualValues(t, 3*few, all.Counts.Finished())
		assert.Zero(t, all.Counts.Repaired, "the first scrub left something")
		assert.EqualValues(t, 3, job.Counts.Repaired+all.Counts.Failed-lost, "damaged copies that were found")
		lost = all.Counts.Failed
		failures, err := f.Client.JobFailures(t.Context(), all.ID)
		require.NoError(t, err)
		assert.Len(t, failures, int(lost))
		for _, failure := range failures {
			assert.True(t, strings.HasPrefix(failure.Object, "ss://single/"), failure.Object)
		}
	}
	report, err := f.Client.Fsck(t.Context())
	require.NoError(t, err)
	assert.Len(t, report.Corrupt, int(lost))
	assert.Empty(t, report.Missing)
	f.check("mirrored")
}

func (f *fixture) scrub(spec api.JobSpec) api.Job {
	f.t.Helper()
	job, err := f.Client.StartJob(f.t.Context(), spec)
	require.NoError(f.t, err)
	job, err = f.Client.WaitJob(f.t.Context(), job.ID, nil)
	require.NoError(f.t, err)
	require.Equal(f.t, api.JobDone, job.State, "%v", job.Error)
	return job
}

// flip damages the payloads of some objects.
func (f *fixture) flip(dirs []string, n int) {
	f.t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(dir, "data"), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || n == 0 {
				return err
			}
			n--
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer file.Close()
			b := make([]byte, 1)
			if _, err := file.ReadAt(b, 5); err != nil {
				return err
			}
			b[0] ^= 0x40
			_, err = file.WriteAt(b, 5)
			return err
		})
		require.NoError(f.t, err)
	}
	require.Zero(f.t, n, "too few files to damage")
}
