package backend_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/shardstream/shardstream/core/backend"
)

// fake is a backend whose calls fail as a script says.
type fake struct {
	mu      sync.Mutex
	objects map[string][]byte
	tag     string
	sums    func([]byte) backend.Sums
	// answer is asked before each call; nil: all is well.
	answer func(op string, call int) error
	// body wraps what is read.
	body    func(call int, r io.Reader) io.Reader
	calls   map[string]int
	active  int
	most    int // requests at a time
	opens   []backend.OpenOptions
	took    time.Duration // of each call
	unsized bool
}

func newFake(objects map[string][]byte) *fake {
	return &fake{objects: objects, tag: "tag-1", calls: map[string]int{}}
}

func (f *fake) call(ctx context.Context, op string) error {
	f.mu.Lock()
	n := f.calls[op]
	f.calls[op]++
	f.active++
	f.most = max(f.most, f.active)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.active--
		f.mu.Unlock()
	}()
	if f.took > 0 {
		select {
		case <-time.After(f.took):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.answer == nil {
		return nil
	}
	return f.answer(op, n)
}

func (f *fake) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *fake) entry(name string) (backend.Entry, error) {
	data, known := f.objects[name]
	if !known {
		return backend.Entry{}, failure(backend.NotFound)
	}
	e := backend.Entry{Name: name, Size: int64(len(data)), Tag: f.tag}
	if f.unsized {
		e.Size = -1
	}
	if f.sums != nil {
		e.Sums = f.sums(data)
	}
	return e, nil
}

func (f *fake) Stat(ctx context.Context, name string) (backend.Entry, error) {
	if err := f.call(ctx, "stat"); err != nil {
		return backend.Entry{}, err
	}
	return f.entry(name)
}

func (f *fake) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	call := f.count("open")
	if err := f.call(ctx, "open"); err != nil {
		return nil, err
	}
	e, err := f.entry(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.opens = append(f.opens, o)
	f.mu.Unlock()
	data := f.objects[name][min(o.Offset, int64(len(f.objects[name]))):]
	if o.Length > 0 {
		data = data[:min(o.Length, int64(len(data)))]
	}
	b := &backend.Body{Entry: e, Offset: o.Offset, Length: int64(len(data))}
	if f.unsized {
		b.Length = -1
	}
	var r io.Reader = bytes.NewReader(data)
	if f.body != nil {
		r = f.body(call, r)
	}
	b.ReadCloser = &until{ctx, r}
	return b, nil
}

// until ends with its context, as a body of HTTP does.
type until struct {
	ctx context.Context //nolint:containedctx // of the call
	io.Reader
}

func (u *until) Read(p []byte) (int, error) {
	if s, ok := u.Reader.(*stalling); ok && s.due() {
		<-u.ctx.Done()
		return 0, u.ctx.Err()
	}
	return u.Reader.Read(p)
}

func (u *until) Close() error { return nil }

// stalling says nothing more after some bytes.
type stalling struct {
	io.Reader
	left int64
}

func (s *stalling) due() bool { return s.left <= 0 }
func (s *stalling) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

// cut breaks off with an error after some bytes.
func cut(r io.Reader, after int64, err error) io.Reader {
	return io.MultiReader(io.LimitReader(r, after), iotestErr{err})
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func (f *fake) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, _ backend.PutOptions) (backend.Entry, error) {
	data, err := io.ReadAll(body)
	if err != nil || int64(len(data)) != size {
		return backend.Entry{}, fmt.Errorf("%d bytes: %w", len(data), err)
	}
	if err := f.call(ctx, "put"); err != nil {
		return backend.Entry{}, err
	}
	f.objects[name] = data
	return f.entry(name)
}

func (f *fake) Delete(ctx context.Context, name string) error {
	if err := f.call(ctx, "delete"); err != nil {
		return err
	}
	delete(f.objects, name)
	return nil
}

func (f *fake) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		var names []string
		for name := range f.objects {
			if name > after && len(name) >= len(prefix) && name[:len(prefix)] == prefix {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			if err := f.call(ctx, "list"); err != nil {
				yield(backend.Entry{}, err)
				return
			}
			e, _ := f.entry(name)
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (f *fake) Close() error { return nil }

func failure(kind backend.Kind) error {
	return &backend.Error{Backend: "s3://b", Op: "stat", Kind: kind}
}

func busy(after time.Duration) error {
	return &backend.Error{Backend: "s3://b", Op: "stat", Kind: backend.Busy, Status: 429, After: after}
}
