// Package overhead_test measures what a transformation costs beside the work of its function: `make bench-etl`. Each
// figure is a share of the same work done without the cluster's help, measured in turns in one run, so that a
// busy machine strikes both alike.
package overhead_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/etl"
)

const (
	rounds     = 5
	roundTime  = time.Second
	clients    = 4
	objectSize = 110_000
	objects    = 200
)

// BenchmarkIdentityGet compares GETs with and without a function that returns the object as it is. Goal: 70 %. The same
// is asked in the ways that clients do: at the target itself, as clients that know the placement; through a
// gateway's redirect, as any HTTP client; and by the Python client.
func BenchmarkIdentityGet(b *testing.B) {
	const identity, copied = "def transform(data):\n    return data\n", "def transform(data):\n    return data[:-1] + b'!'\n"
	target := func(c *clustertest.Cluster) string { return "http://" + c.Targets[0].Addr() }
	for _, x := range []struct {
		name, source string
		at           func(*clustertest.Cluster) string
		get          func(b *testing.B, base, query string, d time.Duration) float64
	}{
		{"identity", identity, target, get},
		{"copy", copied, target, get},
		{"identity, by a gateway", identity, (*clustertest.Cluster).Endpoint, get},
		{"identity, in Python", identity, (*clustertest.Cluster).Endpoint, getInPython},
	} {
		b.Run(x.name, func(b *testing.B) {
			cluster := clustertest.Start(b, clustertest.Options{Targets: 1})
			fill(b, cluster)
			_, err := cluster.Client.PutETL(b.Context(), api.ETL{Name: "f", Source: x.source, Level: api.LevelObject})
			require.NoError(b, err)
			base := x.at(cluster) + "/v1/objects/b/"
			for b.Loop() {
				x.get(b, base, "?etl=f", roundTime) // workers are up
				plain, through := inTurns(
					func() float64 { return x.get(b, base, "", roundTime) },
					func() float64 { return x.get(b, base, "?etl=f", roundTime) },
				)
				b.ReportMetric(plain, "plain-GET/s")
				b.ReportMetric(through, "etl-GET/s")
				b.ReportMetric(100*through/plain, "%-of-plain")
				if strings.Contains(x.name, "Python") {
					continue // the client has ended before its CPU time could be read
				}
				// What a busy machine does not distort as much: CPU time of client, target and workers.
				node, _ := cpuOf(b, func() float64 { return x.get(b, base, "", roundTime) })
				b.ReportMetric(node, "plain-cpu-us/GET")
				node, workers := cpuOf(b, func() float64 { return x.get(b, base, "?etl=f", roundTime) })
				b.ReportMetric(node+workers, "etl-cpu-us/GET")
				b.ReportMetric(workers, "worker-cpu-us/GET")
			}
		})
	}
}

// fill puts the objects into bucket b.
func fill(b *testing.B, cluster *clustertest.Cluster) {
	b.Helper()
	_, err := cluster.Client.CreateBucket(b.Context(), "b")
	require.NoError(b, err)
	data := make([]byte, objectSize)
	for i := range objects {
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		_, err := cluster.Client.PutObject(b.Context(), "b", fmt.Sprintf("o%03d", i), bytes.NewReader(data), objectSize, api.PutOptions{})
		require.NoError(b, err)
	}
}

// inPython fetches objects one after the other with the package's client, and prints how many came per second.
const inPython = `
import sys, time
import shardstream
bucket = shardstream.Client(sys.argv[1]).bucket("b")
options = {"etl": sys.argv[2]} if sys.argv[2] else {}
bucket.get("o000", **options)
begun, n = time.monotonic(), 0
while time.monotonic() - begun < float(sys.argv[3]):
    assert len(bucket.get(f"o{n % 200:03d}", **options)) == 110_000
    n += 1
print(n / (time.monotonic() - begun))
`

// getInPython is get with the Python client: one, as it is busier than the rest.
func getInPython(b *testing.B, base, query string, d time.Duration) float64 {
	b.Helper()
	python := cmp.Or(os.Getenv(etl.PythonEnv), "python3") // not what FindPython makes of it: that has no packages
	endpoint, _, _ := strings.Cut(base, "/v1/")
	cmd := exec.CommandContext(b.Context(), python, "-c", inPython, endpoint, strings.TrimPrefix(query, "?etl="), strconv.FormatFloat(d.Seconds(), 'f', 3, 64))
	var problem bytes.Buffer
	cmd.Stderr = &problem
	text, err := cmd.Output()
	if strings.Contains(problem.String(), "No module named 'shardstream'") {
		b.Skip("the package is not installed for " + python)
	}
	require.NoError(b, err, problem.String())
	rate, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	require.NoError(b, err)
	return rate
}

// get fetches objects with several clients for a while, and returns how many came per second.
func get(b *testing.B, base, query string, d time.Duration) float64 {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{ReadBufferSize: 256 << 10, MaxIdleConnsPerHost: clients, DisableCompression: true}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	var count atomic.Int64
	var wait sync.WaitGroup
	begun := time.Now()
	for i := range clients {
		wait.Go(func() {
			buffer := make([]byte, 1<<20)
			for k := i; time.Since(begun) < d; k++ {
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+fmt.Sprintf("o%03d", k%objects)+query, nil)
				if !noError(b, err) {
					return
				}
				answer, err := client.Do(request)
				if !noError(b, err) {
					return
				}
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, answer.Body, buffer)
				_ = answer.Body.Close()
				if !noError(b, err) || n != objectSize {
					b.Errorf("%d bytes with status %d", n, answer.StatusCode)
					return
				}
				count.Add(1)
			}
		})
	}
	wait.Wait()
	return float64(count.Load()) / time.Since(begun).Seconds()
}

// cpuOf is the CPU time in microseconds, of this process and of its workers, that each of the things takes that f does for
// roundTime at a rate that it returns.
func cpuOf(b *testing.B, f func() float64) (own, workers float64) {
	b.Helper()
	ownBefore, workersBefore := cpuTime(b)
	n := f() * roundTime.Seconds()
	ownAfter, workersAfter := cpuTime(b)
	return float64((ownAfter - ownBefore).Microseconds()) / n, float64((workersAfter - workersBefore).Microseconds()) / n
}

// cpuTime is what this process, and its descendants that live, have used.
func cpuTime(b *testing.B) (own, descendants time.Duration) {
	b.Helper()
	const tick = 10 * time.Millisecond
	ours := map[int]bool{os.Getpid(): true}
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(b, err)
	for _, path := range byNumber(paths) {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if parent, _ := strconv.Atoi(fields[1]); !ours[pid] && !ours[parent] {
			continue
		}
		ours[pid] = true
		var used time.Duration
		for _, field := range fields[11:13] {
			ticks, _ := strconv.Atoi(field)
			used += time.Duration(ticks) * tick
		}
		if pid == os.Getpid() {
			own += used
		} else {
			descendants += used
		}
	}
	return own, descendants
}

// byNumber sorts paths so that parents mostly come before their children.
func byNumber(paths []string) []string {
	slices.SortFunc(paths, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return paths
}

func noError(b *testing.B, err error) bool {
	if err != nil {
		b.Error(err)
	}
	return err == nil
}

// inTurns measures two things several times, one after the other, and returns the medians.
func inTurns(one, other func() float64) (float64, float64) {
	var first, second []float64
	for range rounds {
		first, second = append(first, one()), append(second, other())
	}
	slices.Sort(first)
	slices.Sort(second)
	return first[rounds/2], second[rounds/2]
}

// A function that computes for a millisecond or two.
const computing = `
def transform(sample):
    total = 0
    for i in range(int(sample["n"])):
        total += i * i % 7
    return {"total": total}
`

// alone runs the function in a loop, as any script would, and prints how often in the time given.
const alone = computing + `
import sys, time
sample = {"__key__": "k", "n": b"20000"}
transform(sample)
print("ready", flush=True)
sys.stdin.readline()
begun, n = time.monotonic(), 0
while time.monotonic() - begun < float(sys.argv[1]):
    transform(sample)
    n += 1
print(n / (time.monotonic() - begun))
`

// BenchmarkComputing compares the calls per second of a pool with those of the same function in as many processes of its
// own. Goal: 90 %.
func BenchmarkComputing(b *testing.B) {
	workers := runtime.GOMAXPROCS(0)
	pool, err := etl.NewPool(etl.Definition{Name: "f", Source: computing, Workers: workers}, etl.Options{Dir: b.TempDir()})
	require.NoError(b, err)
	defer func() { require.NoError(b, pool.Close()) }()
	for b.Loop() {
		throughPool(b, pool, roundTime)
		free, pooled := inTurns(
			func() float64 { return outside(b, workers, roundTime) },
			func() float64 { return throughPool(b, pool, roundTime) },
		)
		b.ReportMetric(free, "alone-calls/s")
		b.ReportMetric(pooled, "pool-calls/s")
		b.ReportMetric(100*pooled/free, "%-of-alone")
	}
}

func throughPool(b *testing.B, pool *etl.Pool, d time.Duration) float64 {
	b.Helper()
	in := make([]etl.Sample, 256)
	for i := range in {
		in[i] = etl.Sample{Key: "k", Fields: []etl.Field{{Name: "n", Value: etl.BytesValue([]byte("20000"))}}}
	}
	out := make([]etl.Result, len(in))
	n, begun := 0, time.Now()
	for time.Since(begun) < d {
		require.NoError(b, pool.Transform(b.Context(), nil, in, out))
		n += len(in)
	}
	return float64(n) / time.Since(begun).Seconds()
}

func outside(b *testing.B, workers int, d time.Duration) float64 {
	b.Helper()
	python, err := etl.FindPython(b.Context(), "")
	require.NoError(b, err)
	type process struct {
		start io.WriteCloser
		out   io.Reader
		cmd   *exec.Cmd
	}
	processes := make([]process, workers)
	for i := range processes {
		cmd := exec.CommandContext(b.Context(), python, "-c", alone, strconv.FormatFloat(d.Seconds(), 'f', 3, 64))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // as workers, whose share of a busy machine may follow from it
		start, err := cmd.StdinPipe()
		require.NoError(b, err)
		out, err := cmd.StdoutPipe()
		require.NoError(b, err)
		require.NoError(b, cmd.Start())
		processes[i] = process{start, out, cmd}
		_, err = io.ReadFull(out, make([]byte, len("ready\n")))
		require.NoError(b, err)
	}
	for _, p := range processes {
		_, err := p.start.Write([]byte("\n"))
		require.NoError(b, err)
	}
	var total float64
	for _, p := range processes {
		text, err := io.ReadAll(p.out)
		require.NoError(b, err)
		require.NoError(b, p.cmd.Wait())
		rate, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		require.NoError(b, err)
		total += rate
	}
	return total
}
