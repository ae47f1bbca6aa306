package backendtest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/core/backend"
)

// Memory is a backend that has its objects in memory, does what it is told, and counts. Its methods may be called from
// any goroutine.
type Memory struct {
	URL string
	// Fault is asked before each call and each read of a body (op "read", with the position in the object): an error is
	// what the call answers, and it may take its time. nil: nothing fails.
	Fault func(op, name string, off int64) error

	mu      sync.Mutex
	objects map[string]memoryObject
	tags    int
	calls   map[string]int // by op and name
}

type memoryObject struct {
	data  []byte
	entry backend.Entry
}

// NewMemory makes an empty one.
func NewMemory(url string) *Memory {
	return &Memory{URL: url, objects: map[string]memoryObject{}, calls: map[string]int{}}
}

// Opener opens it, whatever the address: for a backend.Set.
func (m *Memory) Opener() backend.Opener {
	return func(context.Context, backend.Config) (backend.Backend, error) { return m, nil }
}

// Set gives an object these bytes, under a new tag.
func (m *Memory) Set(name string, data []byte) backend.Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.set(name, data, "")
}

func (m *Memory) set(name string, data []byte, contentType string) backend.Entry {
	m.tags++
	e := backend.Entry{
		Name: name, Size: int64(len(data)), Tag: fmt.Sprintf("tag-%d", m.tags), ContentType: contentType,
		Modified: time.Unix(1700000000+int64(m.tags), 0).UTC(),
	}
	m.objects[name] = memoryObject{data: slices.Clone(data), entry: e}
	return e
}

// Remove takes an object away.
func (m *Memory) Remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
}

// Data is what an object has; nil: there is none.
func (m *Memory) Data(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.objects[name].data
}

// Calls is how often an operation was asked for of an object.
func (m *Memory) Calls(op, name string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[op+" "+name]
}

// begin counts a call and has it fail where it is to.
func (m *Memory) begin(ctx context.Context, op, name string) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	m.calls[op+" "+name]++
	m.mu.Unlock()
	return m.fail(op, name, 0)
}

func (m *Memory) fail(op, name string, off int64) error {
	if m.Fault == nil {
		return nil
	}
	return m.Fault(op, name, off)
}

// Failure is an error of the backend.
func (m *Memory) Failure(op, name string, kind backend.Kind) error {
	return &backend.Error{Backend: m.URL, Op: op, Name: name, Kind: kind}
}

func (m *Memory) find(op, name string) (memoryObject, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[name]
	if !ok {
		return o, m.Failure(op, name, backend.NotFound)
	}
	return o, nil
}

// List implements backend.Backend.
func (m *Memory) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		if err := m.begin(ctx, "list", prefix); err != nil {
			yield(backend.Entry{}, err)
			return
		}
		m.mu.Lock()
		names := slices.Sorted(maps.Keys(m.objects))
		m.mu.Unlock()
		for _, name := range names {
			if !strings.HasPrefix(name, prefix) || name <= after {
				continue
			}
			if o, err := m.find("list", name); err == nil && !yield(o.entry, nil) {
				return
			}
		}
	}
}

// Stat implements backend.Backend.
func (m *Memory) Stat(ctx context.Context, name string) (backend.Entry, error) {
	if err := m.begin(ctx, "stat", name); err != nil {
		return backend.Entry{}, err
	}
	o, err := m.find("stat", name)
	return o.entry, err
}

// Open implements backend.Backend.
func (m *Memory) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	if err := m.begin(ctx, "open", name); err != nil {
		return nil, err
	}
	object, err := m.find("open", name)
	size := object.entry.Size
	switch {
	case err != nil:
		return nil, err
	case o.Tag != "" && o.Tag != object.entry.Tag:
		return nil, m.Failure("open", name, backend.Changed)
	case o.Offset > 0 && o.Offset >= size:
		return nil, m.Failure("open", name, backend.Range)
	}
	n := size - o.Offset
	if o.Length > 0 {
		n = min(n, o.Length)
	}
	body := &memoryBody{ctx: ctx, m: m, name: name, off: o.Offset, left: object.data[o.Offset : o.Offset+n]}
	return &backend.Body{ReadCloser: body, Entry: object.entry, Offset: o.Offset, Length: n}, nil
}

type memoryBody struct {
	ctx  context.Context //nolint:containedctx // of the call that opened it
	m    *Memory
	name string
	off  int64
	left []byte
}

func (b *memoryBody) Read(p []byte) (int, error) {
	if len(b.left) == 0 {
		return 0, io.EOF
	}
	err := b.m.fail("read", b.name, b.off)
	if err = cmp.Or(context.Cause(b.ctx), err); err != nil {
		return 0, err
	}
	n := copy(p, b.left[:min(len(b.left), 64<<10)])
	b.left = b.left[n:]
	b.off += int64(n)
	return n, nil
}

func (b *memoryBody) Close() error { return nil }

// Put implements backend.Backend.
func (m *Memory) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions) (backend.Entry, error) {
	if err := m.begin(ctx, "put", name); err != nil {
		return backend.Entry{}, err
	}
	var data bytes.Buffer
	if n, err := io.Copy(&data, body); err != nil || n != size {
		return backend.Entry{}, m.Failure("put", name, backend.Corrupt)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.set(name, data.Bytes(), o.ContentType), nil
}

// Delete implements backend.Backend.
func (m *Memory) Delete(ctx context.Context, name string) error {
	if err := m.begin(ctx, "delete", name); err != nil {
		return err
	}
	m.Remove(name)
	return nil
}

// Close implements backend.Backend.
func (m *Memory) Close() error { return nil }

// Flip damages an object, under the tag that it has.
func (m *Memory) Flip(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.objects[name]
	o.data = slices.Clone(o.data)
	o.data[len(o.data)/2] ^= 1
	m.objects[name] = o
}
