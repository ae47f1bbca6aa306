package etl_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/sandbox"
)

// BenchmarkIdentity is the cost of the crossing: samples go to a worker and come back unchanged.
// Compare the 110 kB cases with BenchmarkCopy, the same bytes copied twice in memory.
func BenchmarkIdentity(b *testing.B) {
	for _, c := range []struct {
		name    string
		size    int
		workers int
	}{
		{"1kB/1", 1_000, 1}, {"1kB/2", 1_000, 2}, {"110kB/1", 110_000, 1}, {"110kB/2", 110_000, 2}, {"4MB/1", 4_000_000, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			pool := newPool(b, "def transform(sample):\n    return sample\n", workers(c.workers))
			n := min(256, max(8, 32_000_000/c.size))
			in := make([]etl.Sample, n)
			for i := range in {
				in[i] = etl.Sample{Key: "train/000001", Seed: uint64(i), Fields: []etl.Field{
					{Name: "jpg", Value: etl.BytesValue(make([]byte, c.size))},
					{Name: "cls", Value: etl.BytesValue([]byte("7"))},
				}}
			}
			out := make([]etl.Result, n)
			cpu := cpuTime(b)
			require.NoError(b, pool.Transform(b.Context(), nil, in, out)) // workers are up
			b.SetBytes(int64(c.size))
			b.ResetTimer()
			begun := time.Now()
			for done := 0; done < b.N; done += n {
				m := min(n, b.N-done)
				require.NoError(b, pool.Transform(b.Context(), nil, in[:m], out[:m]))
			}
			b.ReportMetric(float64(time.Since(begun).Microseconds())/float64(b.N), "us/sample")
			b.StopTimer()
			require.NoError(b, pool.Close()) // its processes' CPU time counts once they are reaped
			b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N+n), "cpu-us/sample")
			for i := range out[:min(n, b.N)] {
				require.NoError(b, out[i].Err)
			}
		})
	}
}

// cpuTime is what this process and its ended children have used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var total int64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var use unix.Rusage
		require.NoError(b, unix.Getrusage(who, &use))
		total += use.Utime.Nano() + use.Stime.Nano()
	}
	return time.Duration(total)
}

// BenchmarkWorkerStart is the time from nothing to a worker that has loaded a function. Compare the levels with none,
// and that with Python alone.
func BenchmarkWorkerStart(b *testing.B) {
	report, err := sandbox.Probe(b.Context())
	require.NoError(b, err)
	for _, level := range []string{sandbox.None, sandbox.Landlock, sandbox.Strict} {
		if _, err := report.Level(level); err != nil {
			continue
		}
		b.Run(level, func(b *testing.B) {
			def := etl.Definition{Name: "start", Source: "def transform(sample):\n    return sample\n", Isolation: level}
			for b.Loop() {
				require.NoError(b, ready(b.Context(), def, etl.Options{Dir: b.TempDir(), Isolation: level}))
			}
		})
	}
	python, err := etl.FindPython(b.Context(), "")
	require.NoError(b, err)
	b.Run("python", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, exec.Command(python, "-E", "-c", "import json, mmap, socket, struct, traceback").Run())
		}
	})
}

// BenchmarkCopy copies 110 kB there and back.
func BenchmarkCopy(b *testing.B) {
	const size = 110_000
	there, back := make([]byte, size), make([]byte, size)
	from := make([]byte, 32_000_000)
	b.SetBytes(size)
	for i := range b.N {
		at := i * size % (len(from) - size)
		copy(there, from[at:at+size])
		copy(back, there)
	}
}
