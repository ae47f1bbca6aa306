package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
)

// TestFullDisk fills a small disk: the answer is 507, nothing half-done is left, and the disk is as
// good as new once there is room.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	disk := smallDisk(t, dir)
	c := start(t, dir, "--targets", "1", "--disks", "1")
	c.mustRun("bucket", "create", "full")

	put := func(key string, body []byte) error {
		_, err := c.client.PutObject(t.Context(), "full", key, bytes.NewReader(body), int64(len(body)), api.PutOptions{})
		return err
	}
	var stored []written
	var full error
	for i := 0; full == nil && i < 20; i++ {
		w := written{key: fmt.Sprintf("%02d", i), body: randomBytes(uint64(i), 6<<20)}
		if full = put(w.key, w.body); full == nil {
			stored = append(stored, w)
		}
	}
	var answer *api.Error
	require.ErrorAs(t, full, &answer)
	require.Equal(t, api.CodeNoSpace, answer.Code)
	require.Equal(t, http.StatusInsufficientStorage, answer.Status)
	require.Contains(t, answer.Message, "disk-1")
	require.GreaterOrEqual(t, len(stored), 3)
	t.Logf("after %d objects: %v", len(stored), full)

	c.listed("full", stored, 0)
	for _, w := range stored {
		_, body := c.read("full", w.key)
		require.True(t, bytes.Equal(w.body, body), w.key)
	}
	require.EqualValues(t, len(stored), c.sound())
	c.eventually("half a file is left", func() bool { return filesBelow(t, filepath.Join(disk, "tmp")) == 0 })

	c.mustRun("rm", "ss://full/"+stored[0].key)
	c.eventually("the disk does not recover", func() bool { return put("again", stored[0].body) == nil })
	_, body := c.read("full", "again")
	require.True(t, bytes.Equal(stored[0].body, body))
	require.EqualValues(t, len(stored), c.sound())
}

// smallDisk makes the one disk of a cluster's one target a small one, where the test may.
func smallDisk(t *testing.T, dir string) string {
	t.Helper()
	disk := filepath.Join(dir, "data", "target-1", "disk-1")
	require.NoError(t, os.MkdirAll(disk, 0o700))
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("needs the right to mount a tmpfs (%v)", err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	return disk
}

func filesBelow(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			n++
		}
		return err
	})
	require.NoError(t, err)
	return n
}

// TestFlippedByteIsNeverServed flips one byte in the file of a shard. Reads that meet it fail and
// name the object and the block; all others go on.
func TestFlippedByteIsNeverServed(t *testing.T) {
	const flipped, block = 1_000_000, 64 << 10
	c := start(t, t.TempDir(), "--targets", "2")
	c.mustRun("bucket", "create", "flips")
	good := shard(t, 1, 100, 30_000)
	_, err := c.client.PutObject(t.Context(), "flips", "train-0.tar", bytes.NewReader(good), int64(len(good)), api.PutOptions{})
	require.NoError(t, err)

	var location api.Location
	require.NoError(t, json.Unmarshal(c.mustRun("object", "locate", "ss://flips/train-0.tar", "--json"), &location))
	require.Len(t, location.Copies, 1)
	require.Len(t, location.Copies[0].Files, 1)
	flip(t, location.Copies[0].Files[0], good, flipped)

	names := fmt.Sprintf("block %d", flipped/block)
	for name, options := range map[string]api.GetOptions{
		"its byte":   {Offset: flipped, Length: 1},
		"its range":  {Offset: flipped - 100_000, Length: 200_000},
		"its block":  {Offset: flipped / block * block, Length: 10},
		"all":        {},
		"its member": {Member: fmt.Sprintf("%06d.bin", memberAt(t, good, flipped))},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readRange(c, options)
			var answer *api.Error
			require.ErrorAs(t, err, &answer)
			require.Equal(t, api.CodeCorrupt, answer.Code)
			require.Contains(t, answer.Message, "flips/train-0.tar")
			require.Contains(t, answer.Message, names)
			if options.Member == "" { // what came before the error is right
				require.True(t, bytes.HasPrefix(good[options.Offset:], got))
			}
		})
	}
	for _, at := range []int64{0, flipped/block*block - 1000, (flipped/block + 1) * block} {
		got, err := readRange(c, api.GetOptions{Offset: at, Length: 1000})
		require.NoError(t, err, "the blocks beside it are sound")
		require.Equal(t, good[at:at+1000], got)
	}

	code, report := c.fsck()
	require.Equal(t, 1, code)
	require.Len(t, report.Corrupt, 1)
	require.Equal(t, "ss://flips/train-0.tar", report.Corrupt[0].Object)
	require.EqualValues(t, flipped/block, report.Corrupt[0].Block)

	code, _, errs := c.run("stream", "ss://flips/train-*.tar", "--batch-size", "10", "--timeout", "10s")
	require.Equal(t, 1, code)
	require.Contains(t, string(errs), "train-0.tar")
	require.Contains(t, string(errs), names)
}

// TestDamageInALargeObject flips bytes where the answer's head has not left yet, where it has, and
// near the end. Whatever was sent before the damage is right, and the error names it.
func TestDamageInALargeObject(t *testing.T) {
	c := start(t, t.TempDir(), "--targets", "1")
	c.mustRun("bucket", "create", "flips")
	good := randomBytes(7, 12<<20)
	for i, at := range []int{10, 1<<20 - 5, 1<<20 + 5, 5 << 20, 12<<20 - 1000} {
		key := fmt.Sprintf("large-%d", i)
		_, err := c.client.PutObject(t.Context(), "flips", key, bytes.NewReader(good), int64(len(good)), api.PutOptions{})
		require.NoError(t, err)
		location, err := c.client.Locate(t.Context(), "flips", key)
		require.NoError(t, err)
		flip(t, location.Copies[0].Files[0], good, at)

		started := time.Now()
		got, err := readObject(c, key, api.GetOptions{})
		var answer *api.Error
		require.ErrorAs(t, err, &answer, "flipped at %d", at)
		require.Equal(t, api.CodeCorrupt, answer.Code)
		require.Contains(t, answer.Message, fmt.Sprintf("block %d ", at/(64<<10)))
		require.True(t, bytes.HasPrefix(good, got), "wrong bytes came out")
		require.Less(t, time.Since(started), 5*time.Second)
	}
}

func readRange(c *cluster, o api.GetOptions) ([]byte, error) { return readObject(c, "train-0.tar", o) }

func readObject(c *cluster, key string, o api.GetOptions) ([]byte, error) {
	reader, err := c.client.GetObject(c.t.Context(), "flips", key, o)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	return io.ReadAll(reader)
}

// flip changes a byte of the stored payload, which it finds by content: a test must not depend on
// where in its file a store keeps the payload.
func flip(t *testing.T, path string, payload []byte, at int) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer file.Close()
	content, err := io.ReadAll(file)
	require.NoError(t, err)
	offset := bytes.Index(content, payload[at:at+64])
	require.GreaterOrEqual(t, offset, 0, "the payload is not in %s", path)
	_, err = file.WriteAt([]byte{payload[at] ^ 0x10}, int64(offset))
	require.NoError(t, err)
	require.NoError(t, file.Sync())
}

// memberAt is the number of the sample whose bin member covers an offset of a shard.
func memberAt(t *testing.T, content []byte, at int) int {
	t.Helper()
	const perSample = 512 + (30_000+511)/512*512 + 1024 // header and bytes of bin; header and a block of cls
	sample := at / perSample
	inside := at % perSample
	require.True(t, inside >= 512 && inside < 512+30_000, "the byte must lie in a bin member")
	require.Less(t, at, len(content))
	return sample
}
