package etl_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/shardstream/shardstream/etl"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(nodeDirEnv); dir != "" {
		runNode(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// newPool makes a pool that is closed, and checked for debris, at the end of the test.
func newPool(t testing.TB, source string, change ...func(*etl.Definition, *etl.Options)) *etl.Pool {
	t.Helper()
	def := etl.Definition{Name: "probe", Source: source, Workers: 1}
	opts := etl.Options{Dir: t.TempDir()}
	for _, c := range change {
		c(&def, &opts)
	}
	pool, err := etl.NewPool(def, opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, pool.Close())
		entries, err := os.ReadDir(opts.Dir)
		require.NoError(t, err)
		require.Empty(t, entries, "temporary files of workers are left")
		// Where no control group tells when all are gone, those that were killed may still be on their way.
		require.Eventually(t, func() bool { return len(processesIn(opts.Dir)) == 0 }, 30*time.Second, 10*time.Millisecond, "processes are left")
	})
	return pool
}

// processesIn lists the processes of workers whose directory lies, or lay, below dir.
func processesIn(dir string) []string {
	var found []string
	environments, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environments {
		if env, err := os.ReadFile(path); err == nil && strings.Contains("\x00"+string(env), "\x00TMPDIR="+dir) {
			found = append(found, path)
		}
	}
	return found
}

func needNumpy(t testing.TB) {
	t.Helper()
	python, err := etl.FindPython(t.Context(), "")
	require.NoError(t, err)
	if out, err := exec.Command(python, "-c", "import numpy").CombinedOutput(); err != nil {
		t.Skipf("%s has no numpy (set %s to a Python that has): %s", python, etl.PythonEnv, out)
	}
}

func workers(n int) func(*etl.Definition, *etl.Options) {
	return func(d *etl.Definition, _ *etl.Options) { d.Workers = n }
}

func timeout(d time.Duration) func(*etl.Definition, *etl.Options) {
	return func(def *etl.Definition, _ *etl.Options) { def.Timeout = d }
}

func sample(key string, fields ...any) etl.Sample {
	s := etl.Sample{Key: key}
	for i := 0; i < len(fields); i += 2 {
		s.Fields = append(s.Fields, etl.Field{Name: fields[i].(string), Value: etl.BytesValue([]byte(fields[i+1].(string)))})
	}
	return s
}

func numbered(n int) []etl.Sample {
	in := make([]etl.Sample, n)
	for i := range in {
		in[i] = sample(fmt.Sprintf("s/%04d", i), "n", fmt.Sprint(i))
	}
	return in
}

func transform(t testing.TB, pool *etl.Pool, in ...etl.Sample) []etl.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out := make([]etl.Result, len(in))
	require.NoError(t, pool.Transform(ctx, nil, in, out))
	return out
}

// userError is the fault of a result, which must be the user's.
func userError(t testing.TB, r etl.Result) *etl.UserError {
	t.Helper()
	var fault *etl.UserError
	require.ErrorAs(t, r.Err, &fault)
	return fault
}

func TestFieldsGoThroughUnchanged(t *testing.T) {
	pool := newPool(t, "def transform(sample):\n    return sample\n", workers(2))
	big := strings.Repeat("0123456789abcdef", 1<<17) // 2 MiB
	in := []etl.Sample{
		sample("a/b/0001", "jpg", "\xff\xd8\x00", "cls", "7"),
		sample("empty", "nothing", ""),
		sample("none"),
		sample("big", "bin", big, "seg.png", "x", "other", big[:70000]),
		sample("ключ", "поле", "значение"),
	}
	for i, r := range transform(t, pool, in...) {
		require.NoError(t, r.Err)
		require.Equal(t, in[i].Key, r.Key)
		require.Len(t, r.Fields, len(in[i].Fields))
		for j, f := range r.Fields {
			require.Equal(t, in[i].Fields[j].Name, f.Name)
			require.Equal(t, etl.Bytes, f.Value.DType)
			require.True(t, string(in[i].Fields[j].Value.Data) == string(f.Value.Data), "field %s", f.Name)
		}
	}
}

func TestOrderIsKeptByManyWorkers(t *testing.T) {
	pool := newPool(t, `
import random, time
def transform(sample):
    time.sleep(random.random() / 500)
    return {"n": int(sample["n"]) * 2, "key": sample["__key__"]}
`, workers(4))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			in := numbered(300)
			for i, r := range transform(t, pool, in...) {
				require.NoError(t, r.Err)
				n, _ := r.Field("n")
				require.Equal(t, uint64(2*i), binary.LittleEndian.Uint64(n.Data))
				key, _ := r.Field("key")
				require.Equal(t, in[i].Key, string(key.Data))
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 900, pool.Stats().Samples)
	require.Zero(t, pool.Stats().Waiting)
}

func TestPlainTypes(t *testing.T) {
	pool := newPool(t, `
import array
def transform(sample):
    return {
        "bytes": b"ab", "bytearray": bytearray(b"cd"), "view": memoryview(b"xefx")[1:3], "str": "ä",
        "true": True, "false": False, "int": -5, "big": 2**63 - 1, "float": 0.5,
        "array": array.array("f", [1, 2, 3]), "none": b"", "__key__": "new/key",
    }
`)
	r := transform(t, pool, sample("k"))[0]
	require.NoError(t, r.Err)
	require.Equal(t, "new/key", r.Key)
	le := binary.LittleEndian
	minusFive := int64(-5)
	want := []etl.Field{
		{"bytes", etl.Value{DType: etl.Bytes, Data: []byte("ab")}},
		{"bytearray", etl.Value{DType: etl.Bytes, Data: []byte("cd")}},
		{"view", etl.Value{DType: etl.Bytes, Data: []byte("ef")}},
		{"str", etl.Value{DType: etl.Text, Data: []byte("ä")}},
		{"true", etl.Value{DType: etl.Bool, Data: []byte{1}}},
		{"false", etl.Value{DType: etl.Bool, Data: []byte{0}}},
		{"int", etl.Value{DType: etl.Int64, Data: le.AppendUint64(nil, uint64(minusFive))}},
		{"big", etl.Value{DType: etl.Int64, Data: le.AppendUint64(nil, math.MaxInt64)}},
		{"float", etl.Value{DType: etl.Float64, Data: le.AppendUint64(nil, math.Float64bits(0.5))}},
		{"array", etl.Value{DType: etl.Float32, Shape: []int64{3}, Data: []byte{0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64}}},
		{"none", etl.Value{DType: etl.Bytes, Data: []byte{}}},
	}
	require.Equal(t, want, r.Fields)
}

func TestNumpyTypes(t *testing.T) {
	needNumpy(t)
	pool := newPool(t, `
import numpy as np
def transform(sample):
    out = {}
    for name in "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 float32 float64".split():
        out[name] = np.arange(6).reshape(2, 3).astype(name)
        out["scalar." + name] = np.dtype(name).type(1)
    out["bigendian"] = np.arange(3, dtype=">i4")
    out["transposed"] = np.arange(6, dtype=np.uint8).reshape(2, 3).T
    out["strided"] = np.arange(100000, dtype=np.uint8)[::2]
    out["empty"] = np.zeros((0, 4), np.float32)
    out["zero"] = np.array(7, np.int16)
    out["large"] = np.ones((3, 200, 200), np.float32)
    out["readonly"] = np.frombuffer(b"abc", np.uint8)
    return out
`)
	r := transform(t, pool, sample("k"))[0]
	require.NoError(t, r.Err)
	for d := etl.Bool; d <= etl.Float64; d++ {
		v, ok := r.Field(d.String())
		require.True(t, ok, d)
		require.Equal(t, d, v.DType)
		require.Equal(t, []int64{2, 3}, v.Shape)
		require.EqualValues(t, 6*d.Size(), len(v.Data))
		v, ok = r.Field("scalar." + d.String())
		require.True(t, ok, d)
		require.Equal(t, d, v.DType)
		require.Empty(t, v.Shape)
		require.EqualValues(t, d.Size(), len(v.Data))
	}
	v, _ := r.Field("bigendian")
	require.Equal(t, etl.Value{DType: etl.Int32, Shape: []int64{3}, Data: []byte{0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0}}, v)
	v, _ = r.Field("transposed")
	require.Equal(t, etl.Value{DType: etl.Uint8, Shape: []int64{3, 2}, Data: []byte{0, 3, 1, 4, 2, 5}}, v)
	v, _ = r.Field("strided")
	require.Equal(t, []int64{50000}, v.Shape)
	require.Equal(t, byte(4), v.Data[2])
	v, _ = r.Field("empty")
	require.Equal(t, []int64{0, 4}, v.Shape)
	v, _ = r.Field("large")
	require.Len(t, v.Data, 4*3*200*200)
	require.Equal(t, []byte{0, 0, 128, 63}, v.Data[len(v.Data)-4:])
	v, _ = r.Field("readonly")
	require.Equal(t, etl.Value{DType: etl.Uint8, Shape: []int64{3}, Data: []byte("abc")}, v)
}

// A function may hand out the same array again and again; a result must not change when it does.
func TestReusedArraysAreNotMixed(t *testing.T) {
	needNumpy(t)
	pool := newPool(t, `
import numpy as np
large, small = np.zeros(50000, np.int32), np.zeros(4, np.int32)
def transform(sample):
    large[:] = small[:] = int(sample["n"])
    return {"large": large, "small": small}
`)
	for i, r := range transform(t, pool, numbered(40)...) {
		require.NoError(t, r.Err)
		for _, f := range r.Fields {
			for _, at := range []int{0, len(f.Value.Data) - 4} {
				require.EqualValues(t, i, binary.LittleEndian.Uint32(f.Value.Data[at:]), f.Name)
			}
		}
	}
}

func TestExceptionsNameTheSampleAndShowUserFrames(t *testing.T) {
	pool := newPool(t, `
class Bad(Exception):
    pass

def inner(n):
    if n == 3:
        raise ValueError("three is not\nwelcome")
    if n == 5:
        raise Bad("five")
    if n == 7:
        raise SystemExit(4)
    return n

def transform(sample):
    return {"n": inner(int(sample["n"]))}
`)
	out := transform(t, pool, numbered(10)...)
	for i, r := range out {
		if i != 3 && i != 5 && i != 7 {
			require.NoError(t, r.Err)
		}
	}
	fault := userError(t, out[3])
	require.Equal(t, "probe", fault.ETL)
	require.Equal(t, "s/0003", fault.Key)
	require.Equal(t, "ValueError: three is not", fault.Summary)
	require.Contains(t, fault.Traceback, "Traceback (most recent call last)")
	require.Contains(t, fault.Traceback, `File "probe.py", line 7, in inner`)
	require.Contains(t, fault.Traceback, `raise ValueError("three is not`)
	require.Contains(t, fault.Traceback, "welcome")
	require.NotContains(t, fault.Traceback, "worker.py")
	require.Contains(t, fault.Error(), `etl "probe" failed on "s/0003": ValueError: three is not`)
	require.Equal(t, "Bad: five", userError(t, out[5]).Summary)
	require.Equal(t, "SystemExit: 4", userError(t, out[7]).Summary)
	require.Zero(t, pool.Stats().Restarts)
	require.EqualValues(t, 3, pool.Stats().Errors)
}

func TestWrongReturns(t *testing.T) {
	cases := map[string]struct{ expression, want string }{
		"none":         {`None`, "returned NoneType; it must return a dict"},
		"list":         {`[1]`, "returned list; it must return a dict"},
		"key type":     {`{1: b""}`, "dict with the key 1 (int); keys must be str"},
		"field none":   {`{"a": None}`, "returned NoneType for field 'a'; allowed are bytes, str, int, float, bool and numpy arrays"},
		"field list":   {`{"a": [1, 2]}`, "returned list for field 'a'; allowed are bytes, str, int, float, bool and numpy arrays or scalars; use numpy.asarray"},
		"field dict":   {`{"a": {}}`, "returned dict for field 'a'"},
		"huge int":     {`{"a": 2**63}`, "int beyond 64 bits for field 'a'"},
		"surrogate":    {`{"a": "\ud800"}`, "not valid Unicode for field 'a'"},
		"reserved":     {`{"__mask__": 1}`, "field '__mask__'; names that begin with __ are reserved"},
		"empty name":   {`{"": 1}`, "a field named ''"},
		"slash":        {`{"a/b": 1}`, "a field named 'a/b'"},
		"key escape":   {`{"__key__": "../x"}`, "the key '../x', which can't name a sample"},
		"key int":      {`{"__key__": 5}`, "int for '__key__'; it must be str"},
		"complex":      {`{"a": 1j}`, "returned complex for field 'a'"},
		"own class":    {`{"a": object()}`, "returned object for field 'a'"},
		"many fields":  {`{str(i): 1 for i in range(5000)}`, "5000 fields; 4096 are allowed"},
		"char pointer": {`{"a": memoryview(b"ab").cast("c")}`, "returned memoryview for field 'a'"},
	}
	pool := newPool(t, "def transform(sample):\n    return eval(sample['x'])\n")
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			fault := userError(t, transform(t, pool, sample("k", "x", c.expression))[0])
			require.Contains(t, fault.Summary, "TypeError: the function returned ")
			require.Contains(t, fault.Summary, c.want)
			require.Empty(t, fault.Traceback)
		})
	}
}

func TestWrongNumpyReturns(t *testing.T) {
	needNumpy(t)
	cases := map[string]struct{ expression, want string }{
		"objects":    {`np.array([1, "a"], object)`, "numpy.ndarray of dtype object for field 'a'"},
		"strings":    {`np.array(["a"])`, "numpy.ndarray of dtype <U1 for field 'a'"},
		"complex":    {`np.zeros(3, complex)`, "numpy.ndarray of dtype complex128"},
		"dates":      {`np.zeros(3, "M8[s]")`, "numpy.ndarray of dtype datetime64[s]"},
		"dimensions": {`np.zeros((1,) * 9)`, "array of 9 dimensions for field 'a'; 8 are allowed"},
	}
	pool := newPool(t, "import numpy as np\ndef transform(sample):\n    return {'a': eval(sample['x'])}\n")
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, userError(t, transform(t, pool, sample("k", "x", c.expression))[0]).Summary, c.want)
		})
	}
}

func TestOutputBeyondTheLimit(t *testing.T) {
	pool := newPool(t, "def transform(sample):\n    return {'a': bytes(int(sample['n']))}\n",
		func(_ *etl.Definition, o *etl.Options) { o.MaxSample = 1 << 20 })
	out := transform(t, pool, sample("fits", "n", "1048576"), sample("over", "n", "1048577"),
		sample("input", "n", strings.Repeat(" ", 1<<20)+"1"), sample("small", "n", "1"))
	require.NoError(t, out[0].Err)
	require.Contains(t, userError(t, out[1]).Summary, "returned 1048577 bytes for one sample; 1048576 are allowed")
	var size *etl.SizeError
	require.ErrorAs(t, out[2].Err, &size)
	require.NoError(t, out[3].Err)
}

func TestSeedsMakeDrawsReproducible(t *testing.T) {
	source := "import random\ndef transform(sample):\n    return {'r': random.random()}\n"
	draw := func(n int, seed uint64) []etl.Result {
		pool := newPool(t, source, workers(n))
		in := numbered(20)
		for i := range in {
			if seed != 0 {
				in[i].Seed = seed + uint64(i)
			}
		}
		return transform(t, pool, in...)
	}
	one, three := draw(1, 1<<63), draw(3, 1<<63)
	require.Equal(t, one, three, "the same draws on any number of workers")
	require.NotEqual(t, one[0].Fields, one[1].Fields)
	other := draw(1, 5)
	require.NotEqual(t, one[0].Fields, other[0].Fields)
	require.NotEqual(t, draw(1, 0)[0].Fields, draw(1, 0)[0].Fields, "without a seed, draws differ")
}

// numpy may be loaded by the very first call; its sample must draw what it would draw later.
func TestSeedsReachNumpyHoweverLateItIsLoaded(t *testing.T) {
	needNumpy(t)
	pool := newPool(t, `
def transform(sample):
    import numpy as np
    return {"r": np.random.rand(3)}
`)
	in := sample("k")
	in.Seed = 77
	first := transform(t, pool, in)
	second := transform(t, pool, in)
	require.NoError(t, first[0].Err)
	require.Equal(t, first, second)
}

func transformObject(t *testing.T, x etl.Runtime, data []byte) ([]byte, error) {
	t.Helper()
	out, err := x.TransformObject(t.Context(), nil, etl.Object{Bucket: "b", Key: "k", Size: int64(len(data)), Body: bytes.NewReader(data)})
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	return io.ReadAll(out.Body)
}

func TestObjects(t *testing.T) {
	pool := newPool(t, `
def transform(data):
    if data == b"none":
        return None
    if data == b"raise":
        raise ValueError("no")
    return data[::-1]
`, func(d *etl.Definition, _ *etl.Options) { d.Level = etl.LevelObject })
	got, err := transformObject(t, pool, []byte("abc"))
	require.NoError(t, err)
	require.Equal(t, "cba", string(got))
	got, err = transformObject(t, pool, nil)
	require.NoError(t, err)
	require.Empty(t, got)
	_, err = transformObject(t, pool, []byte("none"))
	require.ErrorContains(t, err, "returned NoneType; an object-level function must return bytes")
	_, err = transformObject(t, pool, []byte("raise"))
	require.ErrorContains(t, err, `etl "probe" failed on "ss://b/k": ValueError: no`)
	require.ErrorIs(t, pool.Transform(t.Context(), nil, nil, nil), etl.ErrLevel)
	_, err = transformObject(t, newPool(t, "def transform(s): return s"), nil)
	require.ErrorIs(t, err, etl.ErrLevel)
}

// Numbers and text that one function of a chain returns reach the next without numpy.
func TestTypedInputWithoutNumpy(t *testing.T) {
	pool := newPool(t, "def transform(sample):\n    return {k: repr(v) for k, v in sample.items() if k != '__key__'}\n")
	values := newPool(t, "def transform(sample):\n    return {'a': 1, 'b': 0.5, 'c': True, 'd': 'x', 'e': b'y', 'f': -2**63}\n")
	in := transform(t, values, sample("k"))[0].Sample
	r := transform(t, pool, in)[0]
	require.NoError(t, r.Err)
	for i, want := range []string{"1", "0.5", "True", "'x'", "b'y'", "-9223372036854775808"} {
		require.Equal(t, want, string(r.Fields[i].Value.Data))
	}
}

func TestTypedInput(t *testing.T) {
	needNumpy(t)
	pool := newPool(t, `
def transform(sample):
    told = {k: f"{type(v).__name__} {getattr(v, 'shape', '')} {getattr(v, 'dtype', '')} {v!r}" for k, v in sample.items()}
    del told["__key__"]
    return told
`)
	in := etl.Sample{Key: "k", Fields: []etl.Field{
		{"text", etl.Value{DType: etl.Text, Data: []byte("ä")}},
		{"num", etl.Value{DType: etl.Int64, Data: []byte{1, 0, 0, 0, 0, 0, 0, 0}}},
		{"arr", etl.Value{DType: etl.Uint16, Shape: []int64{1, 2}, Data: []byte{1, 0, 2, 0}}},
	}}
	r := transform(t, pool, in)[0]
	require.NoError(t, r.Err)
	require.Equal(t, "str   'ä'", string(r.Fields[0].Value.Data))
	require.Equal(t, "int   1", string(r.Fields[1].Value.Data))
	require.Contains(t, string(r.Fields[2].Value.Data), "ndarray (1, 2) uint16")
}

func TestClosedPool(t *testing.T) {
	pool := newPool(t, "def transform(s): return s")
	require.NoError(t, pool.Close())
	require.NoError(t, pool.Close())
	err := pool.Transform(t.Context(), nil, numbered(1), make([]etl.Result, 1))
	require.ErrorIs(t, err, etl.ErrClosed)
}

func TestNoPython(t *testing.T) {
	t.Setenv(etl.PythonEnv, "/nowhere/python3")
	_, err := etl.NewPool(etl.Definition{Name: "x", Source: "pass"}, etl.Options{})
	require.ErrorIs(t, err, etl.ErrNoPython)
	old := filepath.Join(t.TempDir(), "python3")
	require.NoError(t, os.WriteFile(old, []byte("#!/bin/sh\necho '{\"path\": \"/usr/bin/python3\", \"version\": \"3.9.1\"}'\n"), 0o700))
	for python, want := range map[string]string{"/bin/false": "does not run", "/bin/true": "is no Python", old: "is Python 3.9"} {
		_, err = etl.NewPool(etl.Definition{Name: "x", Source: "pass"}, etl.Options{Python: python})
		require.ErrorIs(t, err, etl.ErrNoPython)
		require.ErrorContains(t, err, want)
	}
}
