package outputs

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/zeebo/xxh3"
)

// An entry's file: the output; an xxh3 of each block of it; what is known of it, as JSON; and a tail of fixed size
// that says where these are. All numbers are little-endian.
const (
	blockBytes = 256 << 10
	tailBytes  = 8 + 4 + 8 + 8 // size of the output, size of the JSON, xxh3 of sums, JSON and the two, magic
	magic      = "SSoutpt1"
	maxMeta    = 4 << 20
	// step is what is reserved at a time for an output whose size is not known.
	step = 1 << 20
)

// meta is what is known of an output.
type meta struct {
	Identity
	ContentType string `json:"content_type"`
	XXH3        uint64 `json:"xxh3"`
	CRC32       uint32 `json:"crc32"`
}

var blocks = sync.Pool{New: func() any { b := make([]byte, blockBytes); return &b }}

// write makes an entry.
func (c *Cache) write(ctx context.Context, id Identity, produce func(context.Context, io.Writer) (string, error)) error {
	if c.tooLarge(id.Key()) {
		return &NoRoomError{"it is too large for the quota"}
	}
	file, err := os.CreateTemp(c.aside, "output-")
	if err != nil {
		return &NoRoomError{err.Error()}
	}
	w := &writer{cache: c, file: bufio.NewWriterSize(file, blockBytes), sum: xxh3.New(), crc: crc32.NewIEEE(), block: xxh3.New()}
	defer func() {
		_ = file.Close()
		_ = os.Remove(file.Name()) // gone where it was renamed
		c.release(w.reserved)
	}()
	contentType, err := produce(ctx, w)
	if errors.Is(w.err, errLarge) {
		c.noteLarge(id.Key())
	}
	if w.err != nil {
		return &NoRoomError{w.err.Error()}
	}
	if err != nil {
		return err
	}
	if err := w.finish(meta{Identity: id, ContentType: contentType}); err != nil {
		return &NoRoomError{err.Error()}
	}
	if err := file.Close(); err != nil {
		return &NoRoomError{err.Error()}
	}
	return c.commit(file.Name(), id, w)
}

// commit gives a whole file its name.
func (c *Cache) commit(aside string, id Identity, w *writer) error {
	k := id.Key()
	if err := os.MkdirAll(filepath.Dir(c.path(k)), 0o700); err != nil {
		return &NoRoomError{err.Error()}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(k) // one that was damaged
	if err := os.Rename(aside, c.path(k)); err != nil {
		return &NoRoomError{err.Error()}
	}
	c.add(&entry{key: k, id: id.origin(), size: onDisk(w.written)})
	return nil
}

var errLarge = errors.New("it has more than half of the quota")

func (c *Cache) tooLarge(k Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.large[k]
}

func (c *Cache) noteLarge(k Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.large) >= maxLarge {
		clear(c.large)
	}
	c.large[k] = true
}

func onDisk(n int64) int64 { return (n + unit - 1) / unit * unit }

// writer writes an output and sums it up.
type writer struct {
	cache    *Cache
	file     *bufio.Writer
	sum      *xxh3.Hasher
	crc      hash.Hash32
	block    *xxh3.Hasher
	sums     []byte
	size     int64 // of the output
	written  int64 // to the file
	reserved int64
	err      error // the cache's own: the output is not kept
}

func (w *writer) Write(p []byte) (int, error) {
	for at := 0; at < len(p); {
		n := min(len(p)-at, int(blockBytes-w.size%blockBytes))
		if err := w.put(p[at : at+n]); err != nil {
			return at, err
		}
		_, _ = w.block.Write(p[at : at+n])
		at += n
		if w.size += int64(n); w.size%blockBytes == 0 {
			w.endBlock()
		}
	}
	_, _ = w.sum.Write(p)
	_, _ = w.crc.Write(p)
	return len(p), nil
}

func (w *writer) endBlock() {
	w.sums = binary.LittleEndian.AppendUint64(w.sums, w.block.Sum64())
	w.block.Reset()
}

// put writes to the file what there is room for.
func (w *writer) put(p []byte) error {
	if w.err != nil {
		return w.err
	}
	if w.written += int64(len(p)); w.written > w.cache.quota/2 {
		w.err = fmt.Errorf("%w of %d bytes", errLarge, w.cache.quota)
		return w.err
	}
	if w.written > w.reserved {
		more := max(step, w.written-w.reserved)
		if w.err = w.cache.reserve(more); w.err != nil {
			more = onDisk(w.written) - w.reserved // exactly, where a step is too much
			w.err = w.cache.reserve(more)
		}
		if w.err != nil {
			return w.err
		}
		w.reserved += more
	}
	_, w.err = w.file.Write(p)
	return w.err
}

// finish adds what makes the output a file of its own.
func (w *writer) finish(m meta) error {
	if w.size%blockBytes != 0 {
		w.endBlock()
	}
	m.XXH3, m.CRC32 = w.sum.Sum64(), w.crc.Sum32()
	document, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(document) > maxMeta {
		return errors.New("its description is too large")
	}
	foot := slices.Concat(w.sums, document)
	foot = binary.LittleEndian.AppendUint64(foot, uint64(w.size))
	foot = binary.LittleEndian.AppendUint32(foot, uint32(len(document)))
	foot = binary.LittleEndian.AppendUint64(foot, xxh3.Hash(foot))
	if err := w.put(append(foot, magic...)); err != nil {
		return err
	}
	return w.file.Flush()
}

// read reads and checks all of an entry's file but the output itself.
func read(file *os.File, k Key) (*Output, error) {
	stat, err := file.Stat()
	if err != nil {
		return nil, err
	}
	var tail [tailBytes]byte
	if stat.Size() < tailBytes {
		return nil, errors.New("it has no tail")
	}
	if _, err := file.ReadAt(tail[:], stat.Size()-tailBytes); err != nil {
		return nil, err
	}
	size, length := binary.LittleEndian.Uint64(tail[:]), int64(binary.LittleEndian.Uint32(tail[8:]))
	if string(tail[20:]) != magic || size > uint64(stat.Size()) || length > maxMeta {
		return nil, errors.New("its tail is damaged")
	}
	sums := (int64(size) + blockBytes - 1) / blockBytes * 8
	if int64(size)+sums+length+tailBytes != stat.Size() {
		return nil, errors.New("its size is not what it was")
	}
	foot := make([]byte, sums+length+12)
	if _, err := file.ReadAt(foot, int64(size)); err != nil {
		return nil, err
	}
	if xxh3.Hash(foot) != binary.LittleEndian.Uint64(tail[12:]) {
		return nil, errors.New("its description is damaged")
	}
	o := &Output{file: file, key: k, sums: foot[:sums:sums], Size: int64(size), onDisk: onDisk(stat.Size())}
	if err := json.Unmarshal(foot[sums:sums+length], &o.meta); err != nil {
		return nil, err
	}
	if o.meta.Identity.Key() != k {
		return nil, errors.New("it is the output of something else")
	}
	o.ContentType, o.XXH3, o.CRC32 = o.meta.ContentType, o.meta.XXH3, o.meta.CRC32
	return o, nil
}
