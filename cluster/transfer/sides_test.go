package transfer_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/transfer"
	"github.com/shardstream/shardstream/core/backend"
)

// memory is a backend that keeps its objects in memory, and can be made to misbehave.
type memory struct {
	mu      sync.Mutex
	objects map[string]stored
	now     time.Time
	sums    bool // tell MD5s

	damage   func(name string, content []byte) []byte // of what is put
	serve    func(name string, content []byte) []byte // of what is read
	listFail error                                    // after half of a listing
	reads    atomic.Int64                             // bodies that were opened
	wrap     func(io.Reader) io.Reader                // around what is read
	cut      func(name string, offset int64) int64    // bytes after which a body fails; 0: none
}

type stored struct {
	content  []byte
	modified time.Time
}

func newMemory() *memory {
	return &memory{objects: map[string]stored{}, now: time.Now().Add(-time.Hour), sums: true}
}

func (m *memory) entry(name string, s stored) backend.Entry {
	sum := md5.Sum(s.content)
	e := backend.Entry{Name: name, Size: int64(len(s.content)), Modified: s.modified, Tag: fmt.Sprintf("%x", sum)}
	if m.sums {
		e.Sums.MD5 = sum[:]
	}
	return e
}

func (m *memory) fail(op, name string, kind backend.Kind, err error) error {
	return &backend.Error{Backend: "s3://memory", Op: op, Name: name, Kind: kind, Err: err}
}

func (m *memory) List(_ context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		m.mu.Lock()
		names := slices.Sorted(maps.Keys(m.objects))
		m.mu.Unlock()
		for i, name := range names {
			if m.listFail != nil && i >= len(names)/2 {
				yield(backend.Entry{}, m.listFail)
				return
			}
			if strings.HasPrefix(name, prefix) && name > after {
				m.mu.Lock()
				e := m.entry(name, m.objects[name])
				m.mu.Unlock()
				if !yield(e, nil) {
					return
				}
			}
		}
	}
}

func (m *memory) Stat(_ context.Context, name string) (backend.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.objects[name]
	if !ok {
		return backend.Entry{}, m.fail("stat", name, backend.NotFound, nil)
	}
	return m.entry(name, s), nil
}

func (m *memory) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	e, err := m.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	if o.Tag != "" && o.Tag != e.Tag {
		return nil, m.fail("open", name, backend.Changed, nil)
	}
	m.reads.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	content := m.objects[name].content
	if m.serve != nil {
		content = m.serve(name, content)
	}
	var r io.Reader = bytes.NewReader(content[o.Offset:])
	if m.cut != nil {
		if n := m.cut(name, o.Offset); n > 0 {
			r = io.MultiReader(io.LimitReader(r, n), failing{m.fail("read", name, backend.Passing, errors.New("cut"))})
		}
	}
	if m.wrap != nil {
		r = m.wrap(r)
	}
	return &backend.Body{ReadCloser: io.NopCloser(r), Entry: e, Offset: o.Offset, Length: e.Size - o.Offset}, nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func (m *memory) Put(_ context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions) (backend.Entry, error) {
	if _, err := backend.Summed(body, size, o.Sums, backend.Sums{CRC32C: new(uint32)}); err != nil {
		return backend.Entry{}, err
	}
	content, err := io.ReadAll(body)
	if err != nil {
		return backend.Entry{}, err
	}
	if m.damage != nil {
		content = m.damage(name, content)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[name] = stored{content, time.Now()}
	return m.entry(name, m.objects[name]), nil
}

func (m *memory) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}

func (m *memory) Close() error { return nil }

func (m *memory) set(name, content string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(time.Second)
	m.objects[name] = stored{[]byte(content), m.now}
}

func (m *memory) side() transfer.Side {
	return transfer.NewRemote(m, backend.Config{Address: backend.Address{Scheme: "s3", Host: "memory"}})
}

// contents reads all files of a side.
func contents(t *testing.T, s transfer.Side) map[string]string {
	t.Helper()
	all := map[string]string{}
	for file, err := range s.List(t.Context(), "") {
		require.NoError(t, err)
		r, err := s.Open(t.Context(), file.Name, 0, file.Tag)
		require.NoError(t, err)
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		all[file.Name] = string(content)
	}
	return all
}

// folder makes a local folder of files.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files)
	return dir
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		at := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o700))
		require.NoError(t, os.WriteFile(at, []byte(content), 0o600))
	}
}

// onDisk are all regular files below a folder, hidden ones too.
func onDisk(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(at string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(at)
		name, _ := filepath.Rel(dir, at)
		all[filepath.ToSlash(name)] = string(content)
		return err
	}))
	return all
}

// observer collects what it is told.
type observer struct {
	mu      sync.Mutex
	events  []transfer.Event
	planned int64
	moved   atomic.Int64
	listed  bool
}

func (o *observer) Planned(n int64) { o.mu.Lock(); defer o.mu.Unlock(); o.planned += n }
func (o *observer) Listed()         { o.mu.Lock(); defer o.mu.Unlock(); o.listed = true }
func (o *observer) Moved(n int64)   { o.moved.Add(n) }
func (o *observer) Done(e transfer.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
}

// of are the sorted addresses of what an action was done to.
func (o *observer) of(action string) []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	names := []string{}
	for _, e := range o.events {
		if e.Action == action {
			names = append(names, e.Destination)
		}
	}
	slices.Sort(names)
	return names
}

func (o *observer) errors() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var text []string
	for _, e := range o.events {
		if e.Err != nil {
			text = append(text, e.Err.Error())
		}
	}
	slices.Sort(text)
	return strings.Join(text, "\n")
}

func options() (transfer.Options, *observer) {
	o := &observer{}
	return transfer.Options{Jobs: 4, Observer: o}, o
}

// sync synchronizes, and has what went wrong.
func synchronize(t *testing.T, from, to transfer.Side, change func(*transfer.Options)) (transfer.Totals, *observer, error) {
	t.Helper()
	o, seen := options()
	if change != nil {
		change(&o)
	}
	totals, err := transfer.Sync(t.Context(), from, to, o)
	return totals, seen, err
}

// opener opens local folders, and a memory as s3://memory.
func opener(m *memory) *transfer.Opener {
	return &transfer.Opener{Backends: func(_ context.Context, c backend.Config) (backend.Backend, error) {
		return &below{m, c.Prefix()}, nil
	}}
}

// below is what a memory has under a prefix.
type below struct {
	*memory
	prefix string
}

func (b *below) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		for e, err := range b.memory.List(ctx, b.prefix+prefix, "") {
			e.Name = strings.TrimPrefix(e.Name, b.prefix)
			if !yield(e, err) {
				return
			}
		}
	}
}

func (b *below) Stat(ctx context.Context, name string) (backend.Entry, error) {
	e, err := b.memory.Stat(ctx, b.prefix+name)
	e.Name = name
	return e, err
}

func (b *below) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	return b.memory.Open(ctx, b.prefix+name, o)
}

func (b *below) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions) (backend.Entry, error) {
	return b.memory.Put(ctx, b.prefix+name, body, size, o)
}

func (b *below) Delete(ctx context.Context, name string) error {
	return b.memory.Delete(ctx, b.prefix+name)
}

// cp copies by addresses, as the command does.
func cp(t *testing.T, o *transfer.Opener, change func(*transfer.Options), args ...string) (transfer.Totals, *observer, error) {
	t.Helper()
	var sources []*transfer.Source
	for _, text := range args[:len(args)-1] {
		found, err := o.Source(t.Context(), text, transfer.Access{})
		if err != nil {
			return transfer.Totals{}, &observer{}, err
		}
		sources = append(sources, found...)
	}
	to, err := o.Target(t.Context(), args[len(args)-1], transfer.Single(sources), transfer.Access{})
	if err != nil {
		return transfer.Totals{}, &observer{}, err
	}
	if err := transfer.CheckApart(sources, to); err != nil {
		return transfer.Totals{}, &observer{}, err
	}
	options, seen := options()
	if change != nil {
		change(&options)
	}
	totals, err := transfer.Copy(t.Context(), sources, to, options)
	require.NoError(t, to.Side.Close())
	return totals, seen, err
}
