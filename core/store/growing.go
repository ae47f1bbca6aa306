package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// errUnfinished is the outcome of a write that nobody ended.
var errUnfinished = errors.New("the write was given up")

// Growing is the payload of an object that is being stored (see PutOptions.Follow), from before its first byte is written
// until the object is committed, or is not. Its methods may be called from any goroutine, and never hold up the write.
type Growing struct {
	disk *disk
	file File // of its own: it stays readable while the writer renames or removes its name

	mu    sync.Mutex
	info  Info // Size is what is written so far
	sums  []uint64
	more  chan struct{} // closed at the next change
	ended chan struct{} // closed once the outcome is known
	err   error         // why it failed
	open  int           // followers, and the writer
}

// Follower is one who reads a Growing.
type Follower struct {
	g    *Growing
	once sync.Once
}

// newGrowing gives others a view of the file that is being written.
func (w *writer) newGrowing() (*Growing, error) {
	f, err := w.disk.fs.OpenFile(w.path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return &Growing{
		disk: w.disk, file: f, info: w.info, open: 1,
		more: make(chan struct{}), ended: make(chan struct{}),
	}, nil
}

// Follow begins to read; false once the write has ended: the store knows what became of it.
func (g *Growing) Follow() (*Follower, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done() {
		return nil, false
	}
	g.open++
	return &Follower{g: g}, true
}

func (g *Growing) done() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

// grow says that n more bytes are written. sums has the checksums of all blocks so far, as the data file will.
func (g *Growing) grow(n int, sums []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.info.Size += int64(n)
	for at := 8 * len(g.sums); at < len(sums); at += 8 {
		g.sums = append(g.sums, binary.LittleEndian.Uint64(sums[at:]))
	}
	g.tell()
}

func (g *Growing) tell() {
	close(g.more)
	g.more = make(chan struct{})
}

// end says how the write has ended, and gives up the writer's hold on the file.
func (g *Growing) end(info Info, err error) {
	g.mu.Lock()
	if g.err = err; err == nil {
		g.info = info
	}
	close(g.ended)
	g.tell()
	g.mu.Unlock()
	g.release()
}

func (g *Growing) release() {
	g.mu.Lock()
	g.open--
	last := g.open == 0
	g.mu.Unlock()
	if last {
		_ = g.file.Close() // it was only read
	}
}

// state is what is written by now, whether more may come, and what closes at the next change.
func (g *Growing) state() (size int64, done bool, more <-chan struct{}, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.info.Size, g.done(), g.more, g.err
}

// Close ends the reading.
func (f *Follower) Close() error {
	f.once.Do(f.g.release)
	return nil
}

// Written is how many bytes can be read by now.
func (f *Follower) Written() int64 {
	size, _, _, _ := f.g.state()
	return size
}

// Wait returns as soon as more than off bytes can be read, and says how many. io.EOF says that the object is committed
// and has no more; another error that it never will be, or that the context has ended.
func (f *Follower) Wait(ctx context.Context, off int64) (written int64, err error) {
	for {
		size, done, more, err := f.g.state()
		switch {
		case err != nil:
			return size, f.g.explain(err)
		case size > off:
			return size, nil
		case done:
			return size, io.EOF
		}
		select {
		case <-more:
		case <-ctx.Done():
			return size, cancelled(ctx, "wait for an object that is being stored")
		}
	}
}

// Outcome waits until the object is committed, and describes it, or tells why it is not.
func (f *Follower) Outcome(ctx context.Context) (Info, error) {
	select {
	case <-f.g.ended:
	case <-ctx.Done():
		return Info{}, cancelled(ctx, "wait for an object that is being stored")
	}
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	if f.g.err != nil {
		return Info{}, f.g.explain(f.g.err)
	}
	return f.g.info, nil
}

func (g *Growing) explain(err error) error {
	return fmt.Errorf("object %s/%s is not stored: %w", g.info.Bucket, g.info.Name, err)
}

// handle is the part that is written by now, as if it were an object of that size. The write having failed, nothing of it
// is to be used any more.
func (g *Growing) handle() (*handle, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return nil, g.explain(g.err)
	}
	return &handle{info: g.info, disk: g.disk, file: g.file, sums: g.sums}, nil
}

// ReadAt reads verified bytes as Object.ReadAt does, of those that are written; behind them is io.EOF.
func (f *Follower) ReadAt(p []byte, off int64) (n int, err error) {
	h, err := f.g.handle()
	if err != nil {
		return 0, err
	}
	return h.readAt(p, off)
}

// WriteRange writes n verified bytes from off to w as Object.WriteRange does; all of them must be written by now.
func (f *Follower) WriteRange(w io.Writer, off, n int64) (written int64, err error) {
	h, err := f.g.handle()
	if err != nil {
		return 0, err
	}
	return h.writeRange(w, off, n)
}

// settle tells those who follow the write how it has ended.
func (w *writer) settle(err error) {
	if w.growing != nil {
		w.growing.end(w.info, err)
		w.growing = nil
	}
}

// giveUp removes what was written after an error, and tells those who follow the write.
func (w *writer) giveUp(err error) error {
	err = errors.Join(w.disk.full(err), w.discard())
	w.settle(cmp.Or(err, errUnfinished))
	return err
}
