package etl_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
)

// A worker may scribble over the shared memory at any time: that changes its own samples at worst, and never what has
// been answered. It can't make the memory smaller, which would fell the node.
func TestHostileUseOfTheSharedMemory(t *testing.T) {
	pool := newPool(t, `
import gc, mmap, os, threading
maps = {id(o.obj): o.obj for o in gc.get_objects() if type(o) is memoryview and type(o.obj) is mmap.mmap}
view, = (memoryview(m) for m in maps.values() if len(m) > 1 << 20)
for line in open("/proc/self/maps"):
    if "shardstream-etl" in line:
        for size in (0, 1 << 40):
            try:
                os.truncate("/proc/self/map_files/" + line.split()[0], size)
                print("resized to", size)
            except OSError as error:
                print("refused:", error.strerror)
half = len(view) // 2
def scribble():
    while True:
        for byte in (b"\0", b"\xff"):
            view[: 1 << 20] = byte * (1 << 20)
            view[half : half + (1 << 20)] = byte * (1 << 20)
threading.Thread(target=scribble, daemon=True).start()
def transform(sample):
    return {"same": sample["big"], "new": sample["big"] + b"!", "n": sample["n"]}
`)
	big := strings.Repeat("x", 100_000)
	var in []etl.Sample
	for range 200 {
		in = append(in, sample("k", "big", big, "n", "1"))
	}
	out := transform(t, pool, in...)
	before := make([]string, len(out))
	for i, r := range out {
		require.NoError(t, r.Err)
		v, _ := r.Field("same")
		require.True(t, string(v.Data) == big, "what comes back as it went did not travel")
		v, _ = r.Field("new")
		before[i] = string(v.Data)
		require.Len(t, before[i], len(big)+1)
	}
	transform(t, pool, in[:50]...)
	for i := range out {
		v, _ := out[i].Field("new")
		require.True(t, before[i] == string(v.Data))
	}
	require.Contains(t, pool.Logs(), "refused")
	require.NotContains(t, pool.Logs(), "resized")
	require.Zero(t, pool.Stats().Restarts)
}

// More than the shared memory holds goes over the socket.
func TestSamplesLargerThanTheSharedMemory(t *testing.T) {
	pool := newPool(t, `
def transform(sample):
    return {"a": sample["a"][::-1], "b": sample["b"], "c": bytearray(sample["a"])}
`, func(d *etl.Definition, _ *etl.Options) { d.Limits.Output = 1 << 30 })
	a, b := strings.Repeat("0123456789", 7_000_000), strings.Repeat("b", 10_000_000)
	for _, r := range transform(t, pool, sample("k", "a", a, "b", b), sample("k", "a", a, "b", b)) {
		require.NoError(t, r.Err)
		v, _ := r.Field("a")
		require.True(t, strings.HasPrefix(string(v.Data), "9876543210") && len(v.Data) == len(a))
		v, _ = r.Field("b")
		require.True(t, string(v.Data) == b)
		v, _ = r.Field("c")
		require.True(t, string(v.Data) == a)
	}
}
