package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// oneOfEach are copies of all kinds.
var oneOfEach = []store.Info{
	{Bucket: "b", Name: "o", Version: 1, Size: 5, XXH3: 7, CRC32: 8, Created: time.Unix(9, 10).UTC(), ContentType: "text/plain"},
	{Bucket: "b", Name: "s.tar", Version: v(2), Size: 1 << 40, Archive: archive.Tar, Members: 5, Samples: 2, MaxSample: 77, Created: time.Unix(0, 0).UTC()},
	{Bucket: "b", Name: "m", Version: v(3), Meta: map[string]string{"a": "", "": "b", "ä": "c"}, Created: time.Unix(1, 0).UTC()},
	{Bucket: "b", Name: "g", Version: v(4), Kind: store.Tombstone, Created: time.Unix(1, 0).UTC()},
	{Bucket: "b", Name: "e", Version: v(5), Size: 10, Kind: store.Stub, Data: 4, Parity: 2, Created: time.Unix(1, 0).UTC()},
	{Bucket: "b", Name: "w", Version: v(5), Size: 10, Data: 255, Parity: 255, Created: time.Unix(1, 0).UTC()},
	{Bucket: "b", Name: "s", Version: v(6), Size: 10, Kind: store.Slice, Data: 4, Parity: 2, Slice: 255, Created: time.Unix(1, 0).UTC()},
	{Bucket: "b", Name: "l", Version: v(7), Size: 10, Kind: store.Lost, Created: time.Unix(1, 0).UTC()},
}

// FuzzRecord: a record is read as it was written, or not at all.
func FuzzRecord(f *testing.F) {
	for _, i := range oneOfEach {
		data := store.EncodeRecord(i)
		got, err := store.DecodeRecord(data)
		require.NoError(f, err)
		require.Equal(f, i, got)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := store.DecodeRecord(data)
		if err != nil {
			return
		}
		again, err := store.DecodeRecord(store.EncodeRecord(i))
		require.NoError(t, err)
		require.Equal(t, i, again)
		require.GreaterOrEqual(t, i.Payload(), int64(0))
	})
}

// bytesFile is a data file in memory.
type bytesFile struct{ *bytes.Reader }

func (f bytesFile) Size() (int64, error)               { return f.Reader.Size(), nil }
func (f bytesFile) WriteAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (f bytesFile) StartWrite(int64, int64)            {}
func (f bytesFile) Truncate(int64) error               { return errors.ErrUnsupported }
func (f bytesFile) Sync() error                        { return errors.ErrUnsupported }
func (f bytesFile) Close() error                       { return nil }
func (f bytesFile) OS() *os.File                       { return nil }

// FuzzDataFile: whatever the end of a data file says, reading it fails or gives what fits into the file. The checksums
// are made good, so that what they guard is tried as well.
func FuzzDataFile(f *testing.F) {
	dir := f.TempDir()
	s, err := store.Open(options(dir))
	require.NoError(f, err)
	put(f, s, "b", "o", payload(1, 70_000))
	shard := tarOf(f, map[string][]byte{"a.jpg": payload(1, 10)})
	coded := putCoded(f, s, "s.tar", shard, v(1))
	putSlice(f, s, store.SliceKey{Bucket: "b", Name: "s.tar", Version: v(1), Slice: 3}, []byte("slice"))
	require.NoError(f, s.Evict(ctx, "b", "s.tar", coded.Version))
	require.NoError(f, s.Close())
	for _, path := range dataFiles(f, options(dir)) {
		data, err := os.ReadFile(path)
		require.NoError(f, err)
		_, err = store.ReadDataFile(bytesFile{bytes.NewReader(data)})
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		mendChecksums(data)
		i, err := store.ReadDataFile(bytesFile{bytes.NewReader(data)})
		if err == nil {
			require.LessOrEqual(t, i.Payload(), int64(len(data)))
			require.GreaterOrEqual(t, i.Payload(), int64(0))
		}
	})
}

// mendChecksums makes good those of the footer and of the parts that it tells of, if they lie within the file.
func mendChecksums(data []byte) {
	const footer = 80
	at := len(data) - footer
	if at < 0 {
		return
	}
	foot := data[at:]
	word := func(n int) uint64 { return binary.LittleEndian.Uint64(foot[8*n:]) }
	size, index, header := word(1), word(2), word(3)
	whole := uint64(len(data))
	if size <= whole && index <= whole && header <= whole {
		sums := 8 * ((size + store.BlockSize - 1) / store.BlockSize)
		for n, part := range [][2]uint64{{size, sums}, {size + sums, index}, {size + sums + index, header}} {
			if part[0]+part[1] <= whole {
				binary.LittleEndian.PutUint64(foot[8*(4+n):], xxh3.Hash(data[part[0]:part[0]+part[1]]))
			}
		}
	}
	binary.LittleEndian.PutUint64(foot[footer-8:], xxh3.Hash(foot[:footer-8]))
}
