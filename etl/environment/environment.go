// Package environment builds the virtual environments that functions run in: one for each set of Python version and
// requirements, shared by all who want the same set, built once and kept on the node's disk.
//
// It knows nothing of functions. A Manager owns a directory; Acquire builds what is not there yet and lends it, and
// what nobody wants any more is removed.
//
//	manager, err := environment.Open(dir, environment.Options{})
//	env, err := manager.Acquire(ctx, environment.Spec{Requirements: []string{"pillow>=10"}}, nil)
//	defer env.Release()
//	exec.Command(env.Interpreter().Path, ...)
package environment

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/etl/sandbox"
)

// Defaults of Options.
const (
	DefaultTimeout = 10 * time.Minute
	DefaultGrace   = 10 * time.Minute
	DefaultCount   = 64
	DefaultSize    = 64 << 30
)

// markerName is the file that says that an environment is complete; it is written last.
const markerName = "environment.json"

// ErrClosed is returned once the manager is closed.
var ErrClosed = errors.New("the environments of this node are closed")

// Spec is what an environment has to have.
type Spec struct {
	Python       string   // version, as in "3.11"; empty: the node's
	Requirements []string // as pip takes them
}

// Empty says that no environment is needed: the node's Python will do.
func (s Spec) Empty() bool { return s.Python == "" && len(s.Requirements) == 0 }

// key is the same for specs that want the same.
func (s Spec) key() string {
	wanted := make([]string, 0, len(s.Requirements))
	for _, r := range s.Requirements {
		wanted = append(wanted, strings.Join(strings.Fields(r), " "))
	}
	slices.Sort(wanted)
	return s.Python + "\n" + strings.Join(slices.Compact(wanted), "\n")
}

// Options are a manager's surroundings; all have defaults.
type Options struct {
	Python  string        // the node's interpreter; else as FindPython says
	Timeout time.Duration // of one build
	Grace   time.Duration // for which an environment that nobody wants is kept; negative: not at all
	Count   int           // environments at most
	Size    int64         // bytes of all of them at most
	Builds  int           // at a time; default 2
	// Isolation is the least that will do for builds, which run code of the packages: a level of etl/sandbox.
	Isolation string
	Hide      []string // directories of the node that builds must not see
	Logger    *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Count <= 0 {
		o.Count = DefaultCount
	}
	if o.Size <= 0 {
		o.Size = DefaultSize
	}
	if o.Builds <= 0 {
		o.Builds = 2
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Manager owns the environments below one directory. It is safe for concurrent use.
type Manager struct {
	dir  string
	opts Options
	turn chan struct{} // one for each build at a time

	mu      sync.Mutex
	closed  bool
	ready   map[string]*entry // by id
	builds  map[string]*build
	failed  map[string]*failure
	wanted  map[string]bool // keys of the specs that Keep was last told
	running sync.WaitGroup
}

// entry is a complete environment.
type entry struct {
	marker
	id     string
	path   string
	leases int
	used   time.Time // when it was last lent or given back
}

// marker is what the marker file says.
type marker struct {
	Key     string    `json:"key"`
	Python  string    `json:"python"` // full version
	Reads   []string  `json:"reads"`  // of the interpreter that it is based on
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
}

// Open takes a directory over: what is complete is kept, what a crash left half built is removed.
func Open(dir string, opts Options) (*Manager, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("environments: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // workers of another user read it
		return nil, fmt.Errorf("environments: %w", err)
	}
	m := &Manager{
		dir: dir, opts: opts.withDefaults(),
		ready: map[string]*entry{}, builds: map[string]*build{}, failed: map[string]*failure{}, wanted: map[string]bool{},
	}
	m.turn = make(chan struct{}, m.opts.Builds)
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("environments: %w", err)
	}
	for _, f := range found {
		path := filepath.Join(dir, f.Name())
		e := &entry{id: f.Name(), path: path, used: time.Now()}
		content, err := os.ReadFile(filepath.Join(path, markerName))
		if err == nil && json.Unmarshal(content, &e.marker) == nil && e.runs() {
			m.ready[e.id] = e
			continue
		}
		if err := sandbox.Remove(path); err != nil {
			m.opts.Logger.Warn("half an environment is in the way", "path", path, "error", err)
		}
	}
	return m, nil
}

// runs says whether the interpreter that it was made with is still there.
func (e *entry) runs() bool {
	info, err := os.Stat(pythonOf(e.path)) // through its links
	return err == nil && info.Mode().IsRegular()
}

func pythonOf(path string) string { return filepath.Join(path, "bin", "python3") }

// Environment is lent by a Manager; it stays as it is until its Release.
type Environment struct {
	manager *Manager
	entry   *entry
	once    sync.Once
}

// Dir is where it lies.
func (e *Environment) Dir() string { return e.entry.path }

// Interpreter is its Python.
func (e *Environment) Interpreter() Interpreter {
	return Interpreter{Path: pythonOf(e.entry.path), Version: e.entry.Python, Reads: append([]string{e.entry.path}, e.entry.Reads...)}
}

// Log is the end of what its build printed.
func (e *Environment) Log() string {
	content, err := os.ReadFile(filepath.Join(e.entry.path, logName))
	if err != nil {
		return ""
	}
	return string(content)
}

// Release gives it back. Idempotent.
func (e *Environment) Release() {
	e.once.Do(func() {
		e.manager.mu.Lock()
		defer e.manager.mu.Unlock()
		e.entry.leases--
		e.entry.used = time.Now()
	})
}

// Keep tells which specs are wanted from now on. The others' environments are removed once they are not lent and the
// grace is over, as is seen when Keep is called.
func (m *Manager) Keep(specs []Spec) {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.wanted)
	for _, s := range specs {
		m.wanted[s.key()] = true
	}
	for id, e := range m.ready {
		if e.leases == 0 && !m.wanted[e.Key] && time.Since(e.used) >= m.opts.Grace {
			m.remove(id)
		}
	}
	for id, f := range m.failed {
		if !m.wanted[f.key] && time.Since(f.until) >= m.opts.Grace {
			delete(m.failed, id)
		}
	}
}

// remove drops an environment that is not lent. It is renamed first: what has its name is complete. The caller holds mu.
func (m *Manager) remove(id string) {
	e := m.ready[id]
	delete(m.ready, id)
	gone := e.path + ".gone"
	if err := os.Rename(e.path, gone); err != nil {
		gone = e.path
	}
	m.running.Go(func() {
		if err := sandbox.Remove(gone); err != nil {
			m.opts.Logger.Warn("an environment is not wanted any more, but can't be removed", "path", gone, "error", err)
		}
	})
}

// room makes room for one more environment, at the expense of those that nobody wants, and says how many bytes it may
// have. The caller holds mu.
func (m *Manager) room() (int64, error) {
	for {
		var size int64
		var oldest *entry
		for _, e := range m.ready {
			size += e.Size
			if e.leases == 0 && !m.wanted[e.Key] && (oldest == nil || e.used.Before(oldest.used)) {
				oldest = e
			}
		}
		if len(m.ready) < m.opts.Count && size < m.opts.Size {
			return m.opts.Size - size, nil
		}
		if oldest == nil {
			return 0, &BuildError{Node: true, Summary: fmt.Sprintf("this node has %d environments of %d MiB together, as many as it may (%d, %d MiB): remove transformations, or give them the same requirements",
				len(m.ready), size>>20, m.opts.Count, m.opts.Size>>20)}
		}
		m.remove(oldest.id)
	}
}

// Isolate sets the least isolation that will do for builds, and what they must not see. Call it before the first Acquire.
func (m *Manager) Isolate(least string, hide []string) { m.opts.Isolation, m.opts.Hide = least, hide }

// Close ends what is being built and joins it. Environments stay on disk.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	for _, b := range m.builds {
		b.cancel()
	}
	m.mu.Unlock()
	m.running.Wait()
}

// identify names the environment of a spec under an interpreter.
func identify(key string, base Interpreter) string {
	sum := sha256.Sum256([]byte(base.Path + "\n" + base.Version + "\n" + key))
	return hex.EncodeToString(sum[:10])
}
