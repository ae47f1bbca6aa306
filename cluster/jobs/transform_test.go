package jobs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

const upper = `
def transform(data):
    if b"bad" in data:
        raise ValueError("no good: " + data.decode())
    return data.upper()
`

const samples = `
def transform(sample):
    if sample["txt"] == b"bad":
        raise ValueError("no good")
    return {"txt": sample["txt"].upper(), "n": len(sample["txt"])}
`

// fixture is a cluster with buckets in and out.
type fixture struct {
	*clustertest.Cluster
	t *testing.T
}

func start(t *testing.T, o clustertest.Options) *fixture {
	t.Helper()
	f := &fixture{Cluster: clustertest.Start(t, o), t: t}
	for _, bucket := range []string{"in", "out"} {
		_, err := f.Client.CreateBucket(t.Context(), bucket)
		require.NoError(t, err)
	}
	f.deploy("upper", upper, api.LevelObject)
	return f
}

func (f *fixture) deploy(name, source, level string) {
	f.t.Helper()
	_, err := f.Client.PutETL(f.t.Context(), api.ETL{Name: name, Source: source, Level: level, Workers: 2})
	require.NoError(f.t, err)
}

func (f *fixture) put(bucket, key, body string) api.Object {
	f.t.Helper()
	object, err := f.Client.PutObject(f.t.Context(), bucket, key, strings.NewReader(body), int64(len(body)), api.PutOptions{})
	require.NoError(f.t, err)
	return object
}

func (f *fixture) get(bucket, key string) string {
	f.t.Helper()
	reader, err := f.Client.GetObject(f.t.Context(), bucket, key, api.GetOptions{})
	require.NoError(f.t, err)
	defer reader.Close()
	body, err := io.ReadAll(reader)
	require.NoError(f.t, err)
	return string(body)
}

func (f *fixture) keys(bucket string) (list []string) {
	f.t.Helper()
	for object, err := range f.Client.Objects(f.t.Context(), bucket, api.ListOptions{}) {
		require.NoError(f.t, err)
		list = append(list, object.Name)
	}
	return list
}

// transform runs a job to its end.
func (f *fixture) transform(s api.TransformSpec) api.Job {
	f.t.Helper()
	return f.wait(f.begin(s).ID)
}

func (f *fixture) begin(s api.TransformSpec) api.Job {
	f.t.Helper()
	job, err := f.Client.StartJob(f.t.Context(), api.JobSpec{Kind: api.JobTransform, Transform: &s})
	require.NoError(f.t, err)
	return job
}

func (f *fixture) wait(id string) api.Job {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	job, err := f.Client.WaitJob(ctx, id, nil)
	require.NoError(f.t, err)
	require.NotNil(f.t, job.Ended)
	return job
}

func requireCode(t *testing.T, err error, code string) {
	t.Helper()
	var answer *api.Error
	require.True(t, errors.As(err, &answer), "%v", err)
	require.Equal(t, code, answer.Code, answer.Message)
}

func TestTransformObjects(t *testing.T) {
	f := start(t, clustertest.Options{Gateways: 2})
	var in, out int64
	for i := range 60 {
		in += f.put("in", fmt.Sprintf("a/%02d.txt", i), fmt.Sprintf("text %d", i)).Size
	}
	f.put("in", "a/empty.txt", "")
	f.put("in", "a/ünï cödé %41.txt", "name")
	in += 4
	f.put("in", "b/other.txt", "not asked for")
	job := f.transform(api.TransformSpec{
		ETL: "upper", Source: "ss://in/a/", Destination: "ss://out/p/", StripPrefix: "a/", Extensions: map[string]string{"txt": "up"},
	})
	require.Equal(t, api.JobDone, job.State, "%v", job.Error)
	out = in
	require.Equal(t, api.JobCounts{Total: 62, TotalBytes: in, Done: 62, BytesIn: in, BytesOut: out}, job.Counts)
	require.Len(t, f.keys("out"), 62)
	for i := range 60 {
		require.Equal(t, fmt.Sprintf("TEXT %d", i), f.get("out", fmt.Sprintf("p/%02d.up", i)))
	}
	require.Empty(t, f.get("out", "p/empty.up"))
	require.Equal(t, "NAME", f.get("out", "p/ünï cödé %41.up"))

	source, err := f.Client.StatObject(t.Context(), "in", "a/07.txt")
	require.NoError(t, err)
	made, err := f.Client.StatObject(t.Context(), "out", "p/07.up")
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		"etl": fmt.Sprintf("upper@%d", job.ETLVersion), "etl-job": job.ID, "etl-source": "ss://in/a/07.txt",
		"etl-version": strings.Trim(source.ETag, `"`),
	}, made.Meta)

	list, err := f.Client.Jobs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []api.Job{job}, list)
	_, err = f.Client.Job(t.Context(), "nothing")
	requireCode(t, err, api.CodeNoJob)
	again, err := f.Client.AbortJob(t.Context(), job.ID)
	require.NoError(t, err)
	require.Equal(t, job, again, "a job that has ended stays as it is")
}

func TestOnlyNew(t *testing.T) {
	f := start(t, clustertest.Options{})
	for i := range 10 {
		f.put("in", fmt.Sprintf("%02d", i), fmt.Sprintf("text %d", i))
	}
	s := api.TransformSpec{ETL: "upper", Source: "ss://in/", Destination: "ss://out/", OnlyNew: true}
	require.EqualValues(t, 10, f.transform(s).Counts.Done)
	before, err := f.Client.StatObject(t.Context(), "out", "03")
	require.NoError(t, err)
	require.EqualValues(t, 10, f.transform(s).Counts.Skipped, "all are up to date")

	f.put("in", "04", "changed")
	f.put("in", "10", "new")
	f.put("out", "05", "somebody else's")
	require.NoError(t, f.Client.DeleteObject(t.Context(), "out", "06"))
	job := f.transform(s)
	require.EqualValues(t, 4, job.Counts.Done)
	require.EqualValues(t, 7, job.Counts.Skipped)
	for key, want := range map[string]string{"04": "CHANGED", "10": "NEW", "05": "TEXT 5", "06": "TEXT 6"} {
		require.Equal(t, want, f.get("out", key))
	}
	after, err := f.Client.StatObject(t.Context(), "out", "03")
	require.NoError(t, err)
	require.Equal(t, before.ETag, after.ETag)

	f.deploy("upper", upper+"\n# another version", api.LevelObject)
	require.EqualValues(t, 11, f.transform(s).Counts.Done, "of another version of the etl nothing is up to date")
	s.OnlyNew = false
	require.EqualValues(t, 11, f.transform(s).Counts.Done)
}

func TestFailingObjects(t *testing.T) {
	f := start(t, clustertest.Options{})
	for i := range 30 {
		body := fmt.Sprintf("text %d", i)
		if i%3 == 0 {
			body = fmt.Sprintf("bad %d", i)
		}
		f.put("in", fmt.Sprintf("%02d", i), body)
	}
	s := api.TransformSpec{ETL: "upper", Source: "ss://in/", Destination: "ss://out/"}
	job := f.transform(s)
	require.Equal(t, api.JobDone, job.State)
	require.EqualValues(t, 10, job.Counts.Failed)
	require.EqualValues(t, 20, job.Counts.Done)
	require.Len(t, f.keys("out"), 20)
	failures, err := f.Client.JobFailures(t.Context(), job.ID)
	require.NoError(t, err)
	require.Len(t, failures, 10)
	slices.SortFunc(failures, func(a, b api.JobFailure) int { return strings.Compare(a.Object, b.Object) })
	require.Equal(t, "ss://in/00", failures[0].Object)
	require.Equal(t, api.CodeETLFailed, failures[0].Error.Code)
	require.Contains(t, failures[0].Error.Message, "ValueError: no good: bad 0")
	require.Contains(t, failures[0].Node, "target-")

	most := int64(3)
	s.MaxErrors = &most
	job = f.transform(s)
	require.Equal(t, api.JobFailed, job.State)
	require.Equal(t, api.CodeTooManyErrs, job.Error.Code)
}

// TestRefusedJobs: what can't be done as a whole is refused, or fails before anything is written.
func TestRefusedJobs(t *testing.T) {
	f := start(t, clustertest.Options{})
	f.put("in", "x.jpg", "one")
	f.put("in", "x.png", "two")
	f.put("in", "y.jpg", "three")
	base := api.TransformSpec{ETL: "upper", Source: "ss://in/", Destination: "ss://out/"}
	for name, c := range map[string]struct {
		change func(*api.TransformSpec)
		code   string
		late   bool // it is found when the source is listed
	}{
		"no etl":         {change: func(s *api.TransformSpec) { s.ETL = "nope" }, code: api.CodeNoETL},
		"no source":      {change: func(s *api.TransformSpec) { s.Source = "ss://nope/" }, code: api.CodeNoBucket},
		"no destination": {change: func(s *api.TransformSpec) { s.Destination = "ss://nope/" }, code: api.CodeNoBucket},
		"bad address":    {change: func(s *api.TransformSpec) { s.Source = "in" }, code: api.CodeBadRequest},
		"into itself":    {change: func(s *api.TransformSpec) { s.Destination = "ss://in/" }, code: api.CodeBadRequest},
		"no match":       {change: func(s *api.TransformSpec) { s.Source = "ss://in/*.gif" }, code: api.CodeNoMatch, late: true},
		"missing name":   {change: func(s *api.TransformSpec) { s.Source = "ss://in/{x,z}.jpg" }, code: api.CodeNoMatch, late: true},
		"one output of two": {
			change: func(s *api.TransformSpec) { s.Extensions = map[string]string{"jpg": "npy", "png": "npy"} },
			code:   api.CodeExists, late: true,
		},
		"an output that is a source": {
			change: func(s *api.TransformSpec) {
				s.Source, s.Destination, s.Prepend = "ss://in/*.jpg", "ss://in/", "new-"
			},
			code: api.CodeBadRequest, late: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := base
			c.change(&s)
			spec := api.JobSpec{Kind: api.JobTransform, Transform: &s}
			_, err := f.Client.PlanJob(t.Context(), spec)
			requireCode(t, err, c.code)
			job, err := f.Client.StartJob(t.Context(), spec)
			if !c.late {
				requireCode(t, err, c.code)
				return
			}
			require.NoError(t, err)
			job = f.wait(job.ID)
			require.Equal(t, api.JobFailed, job.State)
			require.Equal(t, c.code, job.Error.Code)
		})
	}
	require.Empty(t, f.keys("out"))
	require.Len(t, f.keys("in"), 3)
}

func TestPlan(t *testing.T) {
	f := start(t, clustertest.Options{})
	for i := range 5 {
		f.put("in", fmt.Sprintf("a/%d.jpg", i), "12345")
	}
	plan, err := f.Client.PlanJob(t.Context(), api.JobSpec{Kind: api.JobTransform, Transform: &api.TransformSpec{
		ETL: "upper", Source: "ss://in/a/{1..3}.jpg", Destination: "ss://out/p/", StripPrefix: "a/", Extensions: map[string]string{"jpg": "x"},
	}})
	require.NoError(t, err)
	require.EqualValues(t, 3, plan.Objects)
	require.EqualValues(t, 15, plan.Bytes)
	require.Equal(t, api.JobStep{Source: "ss://in/a/1.jpg", Destination: "ss://out/p/1.x", Size: 5}, plan.First[0])
	require.Len(t, plan.First, 3)
	require.Empty(t, f.keys("out"))
	list, err := f.Client.Jobs(t.Context())
	require.NoError(t, err)
	require.Empty(t, list)
}

func archiveOf(t *testing.T, from, n int) string {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for i := from; i < from+n; i++ {
		body := fmt.Sprintf("text %d", i)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%05d.txt", i), Mode: 0o644, Size: int64(len(body))}))
		_, err := w.Write([]byte(body))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buffer.String()
}

// TestTransformSamples: archives come out as archives of transformed samples, in their order, indexed.
func TestTransformSamples(t *testing.T) {
	f := start(t, clustertest.Options{})
	f.deploy("samples", samples, api.LevelSample)
	for i := range 3 {
		f.put("in", fmt.Sprintf("shard-%d.tar", i), archiveOf(t, 1000*i, 700)) // more than goes to the workers at once
	}
	f.put("in", "single.txt", "alone")
	f.put("in", "broken.txt", "bad")
	job := f.transform(api.TransformSpec{ETL: "samples", Source: "ss://in/", Destination: "ss://out/"})
	require.Equal(t, api.JobDone, job.State, "%v", job.Error)
	require.EqualValues(t, 4, job.Counts.Done)
	require.EqualValues(t, 1, job.Counts.Failed)
	require.Equal(t, []string{"shard-0.tar", "shard-1.tar", "shard-2.tar", "single.txt.tar"}, f.keys("out"))
	for i := range 3 {
		name := fmt.Sprintf("shard-%d.tar", i)
		object, err := f.Client.StatObject(t.Context(), "out", name)
		require.NoError(t, err)
		require.EqualValues(t, 700, object.Samples)
		r := tar.NewReader(strings.NewReader(f.get("out", name)))
		for s := range 700 {
			want := fmt.Sprintf("TEXT %d", 1000*i+s)
			requireMember(t, r, fmt.Sprintf("%05d.txt", 1000*i+s), want)
			requireMember(t, r, fmt.Sprintf("%05d.n", 1000*i+s), fmt.Sprint(len(want)))
		}
		_, err = r.Next()
		require.ErrorIs(t, err, io.EOF)
	}
	requireMember(t, tar.NewReader(strings.NewReader(f.get("out", "single.txt.tar"))), "single.txt", "ALONE")
}

func requireMember(t *testing.T, r *tar.Reader, name, want string) {
	t.Helper()
	header, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, name, header.Name)
	body, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, want, string(body))
}

// TestJobWaitsForATarget: while a target is away the job goes on with what the others have, says what it waits for,
// and ends when the target is back. A target that joins meanwhile takes part.
func TestJobWaitsForATarget(t *testing.T) {
	f := start(t, clustertest.Options{})
	for i := range 200 {
		f.put("in", fmt.Sprintf("%03d", i), fmt.Sprintf("text %d", i))
	}
	f.deploy("slow", "import time\ndef transform(data):\n    time.sleep(0.02)\n    return data\n", api.LevelObject)
	job := f.begin(api.TransformSpec{ETL: "slow", Source: "ss://in/", Destination: "ss://out/"})
	f.Await("the job begins", func() bool {
		j, err := f.Client.Job(t.Context(), job.ID)
		return err == nil && j.Counts.Total == 200
	})
	f.Targets[0].Stop()
	f.Await("the job says what it waits for", func() bool {
		j, err := f.Client.Job(t.Context(), job.ID)
		require.NoError(t, err)
		require.False(t, j.Finished())
		return slices.ContainsFunc(j.Waiting, func(s string) bool { return strings.Contains(s, "target-1") })
	})
	f.AddTarget()
	f.Targets[0].Start()
	job = f.wait(job.ID)
	require.Equal(t, api.JobDone, job.State, "%v", job.Error)
	require.EqualValues(t, 200, job.Counts.Done)
	require.Empty(t, job.Waiting)
	require.Len(t, f.keys("out"), 200)
	for i := range 200 {
		require.Equal(t, fmt.Sprintf("text %d", i), f.get("out", fmt.Sprintf("%03d", i)))
	}
}

// TestJobLosesPatience: a target that stays away longer than the job is to wait ends it.
func TestJobLosesPatience(t *testing.T) {
	f := start(t, clustertest.Options{})
	for i := range 30 {
		f.put("in", fmt.Sprintf("%03d", i), "text")
	}
	f.deploy("slow", "import time\ndef transform(data):\n    time.sleep(0.2)\n    return data\n", api.LevelObject)
	job := f.begin(api.TransformSpec{ETL: "slow", Source: "ss://in/", Destination: "ss://out/", PatienceS: 1})
	f.Await("the job begins", func() bool {
		j, err := f.Client.Job(t.Context(), job.ID)
		return err == nil && j.Counts.Total == 30
	})
	f.Targets[1].Stop()
	job = f.wait(job.ID)
	require.Equal(t, api.JobFailed, job.State)
	require.Equal(t, api.CodeUnavailable, job.Error.Code)
	require.Contains(t, job.Error.Message, "target-2")
}

// TestReplacedETLEndsTheJob: a job's outputs are all of one version of its transformation.
func TestReplacedETLEndsTheJob(t *testing.T) {
	f := start(t, clustertest.Options{Targets: 1})
	for i := range 50 {
		f.put("in", fmt.Sprintf("%03d", i), "text")
	}
	source := "import time\ndef transform(data):\n    time.sleep(0.1)\n    return data\n"
	f.deploy("slow", source, api.LevelObject)
	job := f.begin(api.TransformSpec{ETL: "slow", Source: "ss://in/", Destination: "ss://out/"})
	f.Await("the job begins", func() bool { return len(f.keys("out")) > 0 })
	f.deploy("slow", source+"# new", api.LevelObject)
	job = f.wait(job.ID)
	require.Equal(t, api.JobFailed, job.State)
	require.Equal(t, api.CodeChanged, job.Error.Code)
	require.Contains(t, job.Error.Message, "slow")
}

// TestJobWaitsForTheETL: a transformation that takes longer to come up than a request would wait for it, as after a node's
// restart, does not fail the job.
func TestJobWaitsForTheETL(t *testing.T) {
	t.Parallel()
	f := start(t, clustertest.Options{Targets: 1})
	f.put("in", "a", "text")
	_, err := f.Client.StoreETL(t.Context(), api.ETL{
		Name: "late", Source: "import time\ntime.sleep(23)\ndef transform(data):\n    return data\n", Level: api.LevelObject, Workers: 1,
	})
	require.NoError(t, err)
	job := f.begin(api.TransformSpec{ETL: "late", Source: "ss://in/", Destination: "ss://out/"})
	f.Await("the job says what it waits for", func() bool {
		j, err := f.Client.Job(t.Context(), job.ID)
		require.NoError(t, err)
		return slices.ContainsFunc(j.Waiting, func(s string) bool { return strings.Contains(s, "late") })
	})
	job = f.wait(job.ID)
	require.Equal(t, api.JobDone, job.State, "%v", job.Error)
	require.Equal(t, "text", f.get("out", "a"))
}
