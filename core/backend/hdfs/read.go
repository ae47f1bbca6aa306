package hdfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/colinmarc/hdfs/v2"

	"github.com/shardstream/shardstream/core/backend"
)

// path is where an object is; NotFound for names that no file has.
func (f *Files) path(op, name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || strings.HasPrefix(part, temporary) {
			return "", f.fail(op, name, backend.NotFound, errors.New("no file has such a name"))
		}
	}
	return f.root + name, nil
}

// entry describes a file. Its tag is of the file, not of the name: a file that is put in place of another has another id.
func entry(name string, info os.FileInfo) backend.Entry {
	e := backend.Entry{Name: name, Size: info.Size(), Modified: info.ModTime()}
	id := uint64(0)
	if status, ok := info.Sys().(*hdfs.FileStatus); ok {
		id = status.GetFileId()
	}
	e.Tag = fmt.Sprintf("%d-%d-%d", id, e.Modified.UnixMilli(), e.Size)
	return e
}

// Stat implements backend.Backend.
func (f *Files) Stat(ctx context.Context, name string) (e backend.Entry, err error) {
	path, err := f.path("stat", name)
	if err != nil {
		return e, err
	}
	found := make(chan backend.Entry, 1) // a call that was left must not write into e
	err = f.do(ctx, "stat", name, func(c *client) error {
		info, err := c.Stat(path)
		if err == nil && info.IsDir() {
			err = os.ErrNotExist
		}
		if err == nil {
			found <- entry(name, info)
		}
		return err
	})
	if err != nil {
		return e, err
	}
	return <-found, nil
}

// Open implements backend.Backend.
func (f *Files) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	path, err := f.path("open", name)
	if err != nil {
		return nil, err
	}
	opened := make(chan *body, 1)
	err = f.do(ctx, "open", name, func(c *client) error {
		file, err := c.Open(path)
		if err != nil {
			return err
		}
		b, err := f.begin(ctx, name, path, file, c, o)
		if err != nil {
			return errors.Join(err, file.Close())
		}
		opened <- b
		return nil
	})
	if err != nil {
		return nil, err // what was opened holds nothing before it is read
	}
	b := <-opened
	length := b.left // which is pump's from now on
	f.calls.Go(b.pump)
	return &backend.Body{ReadCloser: b, Entry: b.entry, Offset: o.Offset, Length: length}, nil
}

func (f *Files) begin(ctx context.Context, name, path string, file *hdfs.FileReader, c *client, o backend.OpenOptions) (*body, error) {
	info := file.Stat()
	if info.IsDir() {
		return nil, os.ErrNotExist
	}
	e := entry(name, info)
	if o.Tag != "" && o.Tag != e.Tag {
		return nil, f.fail("open", name, backend.Changed, fmt.Errorf("its tag is %q, not %q", e.Tag, o.Tag))
	}
	if o.Offset > 0 && o.Offset >= e.Size {
		return nil, f.fail("open", name, backend.Range, fmt.Errorf("it has %d bytes", e.Size))
	}
	if _, err := file.Seek(o.Offset, io.SeekStart); err != nil {
		return nil, err
	}
	left := e.Size - o.Offset
	if o.Length > 0 {
		left = min(left, o.Length)
	}
	return &body{
		files: f, ctx: ctx, name: name, path: path, entry: e, file: file, client: c, left: left,
		pieces: make(chan piece), stop: make(chan struct{}), free: make(chan []byte, 2),
	}, nil
}

// body is read by a goroutine of its own, which a reader need not wait for when its context ends.
type body struct {
	files  *Files
	ctx    context.Context //nolint:containedctx // of the call that opened it; it bounds all reads
	name   string
	path   string
	entry  backend.Entry
	file   *hdfs.FileReader
	client *client
	left   int64 // to be read from the file; of pump alone once it runs

	pieces chan piece
	free   chan []byte // buffers that were read
	stop   chan struct{}
	once   sync.Once

	present []byte // what is left of whole
	whole   []byte
	err     error
}

type piece struct {
	data []byte
	err  error
}

const pieceBytes = 256 << 10

// pump reads until the end, an error, or Close.
func (b *body) pump() {
	defer func() { _ = b.file.Close() }()
	b.free <- make([]byte, min(pieceBytes, max(b.left, 1)))
	if b.left > pieceBytes {
		b.free <- make([]byte, pieceBytes)
	}
	for first := true; ; first = false {
		var buffer []byte
		select {
		case buffer = <-b.free:
		case <-b.stop:
			return
		}
		p := piece{err: io.EOF}
		if b.left > 0 {
			n, err := b.fill(buffer[:min(int64(len(buffer)), b.left)])
			if err == nil && first {
				err = b.still()
			}
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			b.left -= int64(n)
			p = piece{buffer[:n], err}
		}
		if p.err != nil && !errors.Is(p.err, io.EOF) {
			b.files.after(b.client, p.err)
			p = piece{err: b.files.typed(b.ctx, "read", b.name, p.err)}
		}
		select {
		case b.pieces <- p:
		case <-b.stop:
			return
		}
		if p.err != nil {
			return
		}
	}
}

// verifiedRead is less than a chunk of HDFS (512 bytes), each of which has a checksum. The library verifies a read of that
// length before it gives it out, and takes the chunk from another data node where it is damaged; of longer reads it gives
// out the damaged bytes as if nothing were wrong.
const verifiedRead = 511

// fill reads all of p, unless there is an error.
func (b *body) fill(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = b.file.Read(p[n:min(n+verifiedRead, len(p))])
		n += m
	}
	return n, err
}

// still makes sure that the blocks, which the library looks up by the name when it reads first, are those of the file
// that was opened.
func (b *body) still() error {
	info, err := b.client.Stat(b.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && entry(b.name, info).Tag != b.entry.Tag {
		return b.files.fail("read", b.name, backend.Changed, errors.New("it was replaced while it was opened"))
	}
	return err
}

func (b *body) Read(p []byte) (int, error) {
	for len(b.present) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		if b.whole != nil {
			b.free <- b.whole[:cap(b.whole)]
			b.whole = nil
		}
		select {
		case next := <-b.pieces:
			b.present, b.err = next.data, next.err
			if len(next.data) > 0 {
				b.whole = next.data
			}
		case <-b.ctx.Done():
			b.err = b.files.fail("read", b.name, backend.Failed, context.Cause(b.ctx))
		}
	}
	n := copy(p, b.present)
	b.present = b.present[n:]
	return n, nil
}

func (b *body) Close() error {
	b.once.Do(func() { close(b.stop) })
	return nil
}
