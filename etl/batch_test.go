package etl_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
)

func batch(def *etl.Definition, _ *etl.Options) { def.Level = etl.LevelBatch }

func TestBatchFunctionsReturnColumns(t *testing.T) {
	needNumpy(t)
	pool := newPool(t, `
import numpy as np
def transform(samples):
    n = np.array([int(s["n"]) for s in samples])
    return {
        "image": np.repeat(n, 6).reshape(-1, 3, 2).astype(np.float32),
        "twice": 2 * n,
        "turned": np.stack([n, n + 1]).T,
        "text": ["t%d" % i for i in n],
        "blob": [bytes(i) for i in n],
        "mixed": [np.arange(i, dtype=np.uint8) if i % 2 else b"even" for i in n],
        "same": [s["big"] for s in samples],
        "number": tuple(int(i) for i in n),
        "__key__": ["new/%d" % i for i in n],
        "__seed__": [s["__seed__"] for s in samples],
    }
`, batch, workers(2))
	big := strings.Repeat("b", 5000)
	var in []etl.Sample
	for i := range 50 {
		in = append(in, sample("s", "n", strconv.Itoa(i), "big", big+strconv.Itoa(i)))
	}
	le := binary.LittleEndian
	for i, r := range transform(t, pool, in...) {
		require.NoError(t, r.Err)
		require.Equal(t, fmt.Sprintf("new/%d", i), r.Key)
		require.Len(t, r.Fields, 8)
		image, _ := r.Field("image")
		require.Equal(t, etl.Float32, image.DType)
		require.Equal(t, []int64{3, 2}, image.Shape)
		require.Len(t, image.Data, 24)
		twice, _ := r.Field("twice")
		require.Empty(t, twice.Shape)
		require.EqualValues(t, 2*i, le.Uint64(twice.Data))
		turned, _ := r.Field("turned")
		require.Equal(t, []int64{2}, turned.Shape)
		require.EqualValues(t, i+1, le.Uint64(turned.Data[8:]))
		text, _ := r.Field("text")
		require.Equal(t, etl.Value{DType: etl.Text, Data: []byte("t" + strconv.Itoa(i))}, text)
		blob, _ := r.Field("blob")
		require.Equal(t, string(make([]byte, i)), string(blob.Data))
		mixed, _ := r.Field("mixed")
		if i%2 == 0 {
			require.Equal(t, etl.BytesValue([]byte("even")), mixed)
		} else {
			require.Equal(t, []int64{int64(i)}, mixed.Shape)
		}
		same, _ := r.Field("same")
		require.True(t, string(same.Data) == big+strconv.Itoa(i))
		number, _ := r.Field("number")
		require.EqualValues(t, i, le.Uint64(number.Data))
	}
	require.EqualValues(t, 50, pool.Stats().Samples)
}

// What one call gets is many samples, but no worker is left without.
func TestBatchesAreLargeAndSpread(t *testing.T) {
	source := "import os\ndef transform(samples):\n    return {'n': [len(samples)] * len(samples), 'pid': [os.getpid()] * len(samples)}\n"
	for all, want := range map[int]int{1: 1, 100: 50, 1200: 256} {
		pool := newPool(t, source, batch, workers(2))
		out := transform(t, pool, numbered(all)...)
		require.EqualValues(t, want, binary.LittleEndian.Uint64(out[0].Fields[0].Value.Data), all)
	}
}

func TestWrongColumns(t *testing.T) {
	needNumpy(t)
	cases := map[string]struct{ expression, want string }{
		"no dict":       {`[1]`, "returned list; a batch function must return a dict of columns"},
		"few rows":      {`{"a": np.zeros((3, 2))}`, "returned 3 rows in column 'a' for 8 samples"},
		"long list":     {`{"a": [1] * 9}`, "returned 9 rows in column 'a' for 8 samples"},
		"scalar":        {`{"a": np.float32(1)}`, "returned a scalar for column 'a'; a column is an array whose first dimension is the number of samples"},
		"bytes":         {`{"a": b"12345678"}`, "returned bytes for column 'a'"},
		"none":          {`{"a": None}`, "returned NoneType for column 'a'"},
		"ragged":        {`{"a": [[1], [2, 3]] * 4}`, "returned list for field 'a'; allowed are"},
		"a row is None": {`{"a": [1] * 7 + [None]}`, "returned NoneType for field 'a'"},
		"objects":       {`{"a": np.array(["x"] * 8)}`, "numpy.ndarray of dtype <U1 for field 'a'"},
		"reserved":      {`{"__mask__": [1] * 8}`, "names that begin with __ are reserved"},
		"keys":          {`{"__key__": "abcdefgh"}`, "returned str for column '__key__'; it must be a list of str"},
		"key":           {`{"__key__": ["../x"] * n}`, "returned the key '../x', which can't name a sample"},
		"name":          {`{"a/b": [1] * 8}`, "a field named 'a/b'"},
	}
	pool := newPool(t, "import numpy as np\ndef transform(samples):\n    return eval(samples[0]['x'], {'np': np, 'n': len(samples)})\n", batch)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var in []etl.Sample
			for i := range 8 {
				in = append(in, sample(strconv.Itoa(i), "x", c.expression))
			}
			for _, r := range transform(t, pool, in...) {
				fault := userError(t, r)
				require.Equal(t, r.Key, fault.Key)
				if name != "a row is None" && name != "ragged" { // where each sample is tried alone
					require.Contains(t, fault.Summary, c.want)
				}
			}
		})
	}
}

// Of a batch, only those samples fail that make a call fail.
func TestOnlyGuiltySamplesOfABatchFail(t *testing.T) {
	cases := map[string]struct{ fault, want string }{
		"raise": {`raise ValueError("bad")`, "ValueError: bad"},
		"value": {`return {"n": [object()] * len(samples)}`, "returned object for field 'n'"},
		"exit":  {`os._exit(3)`, "exit status 3"},
		"hang":  {`time.sleep(1000)`, "timed out after 0.4 s"},
		"large": {`return {"n": [bytes(3 << 20)] * len(samples)}`, "2097152 are allowed"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newPool(t, `
import os, time
def transform(samples):
    if any(s["n"] in (b"5", b"77") for s in samples):
        `+c.fault+`
    return {"n": [int(s["n"]) for s in samples]}
`, batch, timeout(400*time.Millisecond), func(_ *etl.Definition, o *etl.Options) { o.MaxSample = 2 << 20 })
			for i, r := range transform(t, pool, numbered(100)...) {
				if i == 5 || i == 77 {
					fault := userError(t, r)
					require.Contains(t, fault.Summary, c.want)
					require.Equal(t, fmt.Sprintf("s/%04d", i), fault.Key)
					continue
				}
				require.NoError(t, r.Err, i)
				require.Equal(t, i, number(r))
			}
		})
	}
}

func TestBatchIsCancelled(t *testing.T) {
	pool := newPool(t, "import time\ndef transform(samples):\n    time.sleep(100)\n", batch)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, pool.Transform(ctx, nil, numbered(50), make([]etl.Result, 50)), context.DeadlineExceeded)
}

// Samples carry their seed at every level, so that a batch function can draw for each.
func TestSamplesCarryTheirSeed(t *testing.T) {
	draw := func(level, source string) []etl.Result {
		pool := newPool(t, "import random\n"+source, func(d *etl.Definition, _ *etl.Options) { d.Level = level }, workers(2))
		in := numbered(20)
		for i := range in[1:] {
			in[1+i].Seed = 1<<63 + uint64(i)
		}
		out := transform(t, pool, in...)
		for i := range out {
			require.NoError(t, out[i].Err)
		}
		return out
	}
	one := draw(etl.LevelSample, "def transform(s):\n    return {**s, 'r': random.Random(s['__seed__']).random()}\n")
	all := draw(etl.LevelBatch, `
def transform(samples):
    return {"n": [s["n"] for s in samples], "r": [random.Random(s["__seed__"]).random() for s in samples]}
`)
	require.Equal(t, one, all)
}

func TestArguments(t *testing.T) {
	for _, level := range []string{etl.LevelSample, etl.LevelBatch} {
		t.Run(level, func(t *testing.T) {
			source := "def transform(sample, size, mode='fit'):\n    return {'told': f'{size} {mode}'}\n"
			if level == etl.LevelBatch {
				source = "def transform(samples, *, size, mode='fit'):\n    return {'told': [f'{size} {mode}'] * len(samples)}\n"
			}
			pool := newPool(t, source, func(d *etl.Definition, _ *etl.Options) { d.Level, d.Args = level, etl.Args(`{"size": 224}`) })
			call := func(args string) (string, error) {
				out := make([]etl.Result, 3)
				if err := pool.Transform(t.Context(), etl.Args(args), numbered(3), out); err != nil {
					return "", err
				}
				require.NoError(t, out[2].Err)
				return string(out[2].Fields[0].Value.Data), nil
			}
			for args, want := range map[string]string{"": "224 fit", `{}`: "224 fit", `{"size": null}`: "None fit", `{"mode": "ä", "size": [1, 2]}`: "[1, 2] ä"} {
				got, err := call(args)
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
			_, err := call(`{"sise": 3}`)
			var fault *etl.UserError
			require.ErrorAs(t, err, &fault)
			require.Empty(t, fault.Key)
			require.Contains(t, fault.Summary, "TypeError: the arguments given (sise, size) do not fit transform(sample")
			require.Contains(t, fault.Summary, "mode='fit'): got an unexpected keyword argument 'sise'")
			_, err = call(`[1]`)
			var form *etl.DefinitionError
			require.ErrorAs(t, err, &form)
			got, err := call("")
			require.NoError(t, err)
			require.Equal(t, "224 fit", got)
		})
	}
}

func TestArgumentsOfADefinitionAreChecked(t *testing.T) {
	check := func(source, args string) error {
		return ready(t.Context(), etl.Definition{Name: "probe", Source: source, Args: etl.Args(args)}, etl.Options{Dir: t.TempDir()})
	}
	require.NoError(t, check("def transform(sample, size): return sample", `{"size": 1}`))
	require.ErrorContains(t, check("def transform(sample, size): return sample", `{"sise": 1}`), "those that args give (sise); it is transform(sample, size): missing a required argument: 'size'")
	require.ErrorContains(t, check("def transform(sample, size): return sample", ""), "must take one argument; others need a default")
}

// torch's generator is seeded where torch is loaded; a stand-in of that name shows how.
func TestSeedsReachTorch(t *testing.T) {
	pool := newPool(t, `
import random, sys, types
def load():
    torch = types.ModuleType("torch")
    torch.default_generator = types.SimpleNamespace(manual_seed=lambda seed: setattr(torch, "seed", seed))
    torch.seed = 0
    sys.modules["torch"] = torch
def transform(sample):
    if "torch" not in sys.modules:
        load()
    return {"seed": str(sys.modules["torch"].seed)}
`)
	in := numbered(3)
	for i := range in {
		in[i].Seed = 1<<63 + uint64(i)
	}
	for i, r := range transform(t, pool, in...) {
		require.Equal(t, strconv.FormatUint(in[i].Seed, 10), string(r.Fields[0].Value.Data))
	}
}
