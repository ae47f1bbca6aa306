package faults

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	jobObjects = 2000
	jobLarge   = 5 << 20 // of a few objects: more than a target keeps in memory of an output
)

// reversing is a transformation whose right answer the test knows.
const reversing = `
import time
def transform(data):
    time.sleep(0.02)
    return data[::-1] + b"."
`

func reversed(data []byte) []byte {
	out := slices.Clone(data)
	slices.Reverse(out)
	return append(out, '.')
}

// offline is a cluster with a bucket of objects to transform.
type offline struct {
	*cluster
	bodies map[string][]byte
	keys   []string
}

func startOffline(t *testing.T) *offline {
	t.Helper()
	o := &offline{cluster: start(t, t.TempDir(), "--targets", "3", "--gateways", "2", "--disks", "1"), bodies: map[string][]byte{}}
	o.mustRun("bucket", "create", "in")
	var group errgroup.Group
	group.SetLimit(8)
	for i := range jobObjects {
		n := 1 + i%3000
		if i%400 == 7 {
			n = jobLarge
		}
		key := fmt.Sprintf("part-%d/%04d.bin", i%7, i)
		body := randomBytes(uint64(i), n)
		o.bodies[key], o.keys = body, append(o.keys, key)
		group.Go(func() error {
			_, err := o.client.PutObject(t.Context(), "in", key, bytes.NewReader(body), int64(len(body)), api.PutOptions{})
			return err
		})
	}
	require.NoError(t, group.Wait())
	slices.Sort(o.keys)
	_, err := o.client.PutETL(t.Context(), api.ETL{Name: "reverse", Source: reversing, Level: api.LevelObject, Workers: 2})
	require.NoError(t, err)
	return o
}

// begin starts a job into a new bucket and waits until some of it is done.
func (o *offline) begin(bucket string) api.Job {
	o.t.Helper()
	o.mustRun("bucket", "create", bucket)
	return o.await(o.submit(bucket).ID, jobObjects/10)
}

func (o *offline) submit(bucket string) api.Job {
	o.t.Helper()
	job, err := o.client.StartJob(o.t.Context(), api.JobSpec{Kind: api.JobTransform, Transform: &api.TransformSpec{
		ETL: "reverse", Source: "ss://in/", Destination: "ss://" + bucket + "/made/",
	}})
	require.NoError(o.t, err)
	return job
}

// beginOn begins a job that the given gateway coordinates, which is a matter of who is quicker.
func (o *offline) beginOn(gateway, bucket string) api.Job {
	o.t.Helper()
	for attempt := range 30 {
		name := fmt.Sprintf("%s-%d", bucket, attempt)
		o.mustRun("bucket", "create", name)
		job := o.submit(name)
		o.eventually("no gateway takes the job", func() bool {
			now, err := o.client.Job(o.t.Context(), job.ID)
			job = now
			return err == nil && now.Runner != ""
		})
		if job.Runner == gateway {
			return o.await(job.ID, jobObjects/10)
		}
		o.mustRun("job", "abort", job.ID)
		o.mustRun("bucket", "rm", name, "--force")
	}
	o.t.Fatalf("%s never takes a job", gateway)
	return api.Job{}
}

// await waits until so many objects of a job are done.
func (o *offline) await(id string, done int64) api.Job {
	o.t.Helper()
	var job api.Job
	o.eventually("the job makes no progress", func() bool {
		var err error
		job, err = o.client.Job(o.t.Context(), id)
		return err == nil && job.Counts.Done >= done
	})
	require.False(o.t, job.Finished(), "the job was over too soon to be disturbed")
	return job
}

// finish waits for the job's end, and checks it and every output.
func (o *offline) finish(id, bucket string, w *watcher) {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 2*time.Minute)
	defer cancel()
	job, err := o.client.WaitJob(ctx, id, nil)
	require.NoError(o.t, err)
	require.Equal(o.t, api.JobDone, job.State, "%v", job.Error)
	require.EqualValues(o.t, jobObjects, job.Counts.Total)
	require.EqualValues(o.t, jobObjects, job.Counts.Done)
	require.Zero(o.t, job.Counts.Failed+job.Counts.Skipped)
	w.stop()
	versions := w.list(o.t)
	require.Len(o.t, versions, jobObjects)
	for _, key := range o.keys {
		_, body := o.read(bucket, "made/"+key)
		require.True(o.t, bytes.Equal(reversed(o.bodies[key]), body), "%s is wrong", key)
	}
	require.Equal(o.t, versions, w.list(o.t), "outputs were written again after the job's end")
	o.t.Logf("%d reads of outputs and %d listings meanwhile", w.reads.Load(), w.listings.Load())
	require.Positive(o.t, w.reads.Load())
}

// watcher looks at a job's outputs all the time: each is absent or right, and of one version for ever.
type watcher struct {
	o        *offline
	bucket   string
	cancel   context.CancelFunc
	group    *errgroup.Group
	mu       sync.Mutex
	versions map[string]uint64
	reads    atomic.Int64 // that found an object
	listings atomic.Int64
}

func (o *offline) watch(bucket string) *watcher {
	w := &watcher{o: o, bucket: bucket, versions: map[string]uint64{}}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(o.t.Context())
	w.group = &errgroup.Group{}
	for range 2 {
		w.group.Go(func() error { return w.readAny(ctx) })
	}
	w.group.Go(func() error { return w.listAgain(ctx) })
	o.t.Cleanup(w.cancel)
	return w
}

func (w *watcher) stop() {
	w.o.t.Helper()
	w.cancel()
	require.NoError(w.o.t, w.group.Wait())
}

func (w *watcher) readAny(ctx context.Context) error {
	client, err := api.NewClient(api.Options{Endpoint: w.o.endpoint, RetryFor: -1, Timeout: 5 * time.Second})
	if err != nil {
		return err
	}
	defer client.Close()
	for ctx.Err() == nil {
		key := w.o.keys[rand.IntN(len(w.o.keys))]
		reader, err := client.GetObject(ctx, w.bucket, "made/"+key, api.GetOptions{})
		if err != nil {
			continue // not there yet, or its target is down
		}
		var body bytes.Buffer
		_, err = body.ReadFrom(reader)
		_ = reader.Close()
		if err != nil {
			continue // cut off, which is said
		}
		w.reads.Add(1)
		if !bytes.Equal(body.Bytes(), reversed(w.o.bodies[key])) {
			return fmt.Errorf("%s was read with %d bytes that are not its output", key, body.Len())
		}
		if err := w.note("made/"+key, reader.Object.Version); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) listAgain(ctx context.Context) error {
	for ctx.Err() == nil {
		var page []api.Object
		for object, err := range w.o.client.Objects(ctx, w.bucket, api.ListOptions{Limit: 10_000}) {
			if err != nil {
				break // a target is down; what was listed before counts
			}
			page = append(page, object)
		}
		w.listings.Add(1)
		for _, object := range page {
			if err := w.note(object.Name, object.Version); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watcher) note(name string, version uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if had, ok := w.versions[name]; ok && had != version {
		return fmt.Errorf("%s was written twice: versions %d and %d", name, had, version)
	}
	w.versions[name] = version
	return nil
}

// list is what there is in the end, each of the version that was seen first.
func (w *watcher) list(t *testing.T) map[string]uint64 {
	t.Helper()
	found := map[string]uint64{}
	for object, err := range w.o.client.Objects(t.Context(), w.bucket, api.ListOptions{}) {
		require.NoError(t, err)
		require.NoError(t, w.note(object.Name, object.Version))
		found[object.Name] = object.Version
	}
	return found
}

func (o *offline) kill(node string) {
	o.t.Helper()
	before := o.pid(node)
	require.NotZero(o.t, before)
	require.NoError(o.t, syscall.Kill(before, syscall.SIGKILL))
	o.eventually(node+" was not started again", func() bool { now := o.pid(node); return now != 0 && now != before })
}

// in is the cluster for a subtest.
func (c *cluster) in(t *testing.T) *cluster {
	sub := *c
	sub.t = t
	return &sub
}

// series reads one series of a node; 0 where it has none yet.
func (c *cluster) series(addr, series string) float64 {
	c.t.Helper()
	for line := range strings.Lines(string(get(c.t, "http://"+addr+"/metrics"))) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			require.NoError(c.t, err)
			return n
		}
	}
	return 0
}

// stored sums up how many outputs the targets say that they stored for jobs.
func (o *offline) stored() (n float64) {
	o.t.Helper()
	for _, node := range o.status().Nodes {
		if node.Role == api.RoleTarget {
			n += o.series(node.Addr, `shardstream_job_objects_total{kind="transform",result="done"}`)
		}
	}
	return n
}
