package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

const (
	keepOnDisk   = 256
	keepInMemory = 16
	idLength     = 64 // hex SHA-256
)

// Snapshots keeps the snapshots that streams name. They are named by their content, so a copy is as good
// as any other: one that is lost or was never here is fetched from a peer.
type Snapshots struct {
	dir   string
	fetch func(ctx context.Context, id string) ([]byte, error)

	mu     sync.Mutex
	memory map[string]*sampler.Snapshot
	recent []string // keys of memory, least recently used first
}

// NewSnapshots keeps snapshots under dir; fetch asks the peers for one.
func NewSnapshots(dir string, fetch func(ctx context.Context, id string) ([]byte, error)) (*Snapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the snapshot directory: %w", err)
	}
	return &Snapshots{dir: dir, fetch: fetch, memory: make(map[string]*sampler.Snapshot)}, nil
}

// validID keeps ids from becoming paths.
func validID(id string) bool {
	if len(id) != idLength {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Put stores a snapshot under its id after checking that the content has that id.
func (s *Snapshots) Put(id string, data []byte) error {
	_, err := s.put(id, data)
	return err
}

func (s *Snapshots) put(id string, data []byte) (*sampler.Snapshot, error) {
	snap, err := s.check(id, data)
	if err != nil {
		return nil, err
	}
	s.remember(id, snap)
	err = s.write(filepath.Join(s.dir, id), data)
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		err = nil // a full disk is no reason not to read from it: the copy in memory serves
	}
	return snap, err
}

func (s *Snapshots) write(path string, data []byte) error {
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(data)) {
		s.touch(path)
		return nil
	}
	// No fsync: a snapshot that a crash loses is fetched again.
	tmp, err := os.CreateTemp(s.dir, "new-")
	if err != nil {
		return fmt.Errorf("store snapshot: %w", err)
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store snapshot: %w", err), os.Remove(tmp.Name()))
	}
	return s.prune()
}

func badID(id string) error {
	return api.Errorf(400, api.CodeBadRequest, "%.80q is not a snapshot id", id)
}

func (s *Snapshots) check(id string, data []byte) (*sampler.Snapshot, error) {
	if !validID(id) {
		return nil, badID(id)
	}
	snap, err := sampler.UnmarshalSnapshot(data)
	if err != nil {
		return nil, api.Errorf(400, api.CodeBadRequest, "snapshot %.12s: %v", id, err)
	}
	if got := snap.ID(); got != id {
		return nil, api.Errorf(400, api.CodeBadRequest, "the content of snapshot %.12s has the id %.12s", id, got)
	}
	return snap, nil
}

// Data returns a snapshot's bytes if this node has them, whole.
func (s *Snapshots) Data(id string) ([]byte, error) {
	if snap := s.recall(id); snap != nil {
		return snap.MarshalBinary()
	}
	data, _, err := s.read(id)
	return data, err
}

// read takes a snapshot from the disk. A damaged one is removed: it is as good as absent, to this node and
// to peers that ask for it.
func (s *Snapshots) read(id string) ([]byte, *sampler.Snapshot, error) {
	if !validID(id) {
		return nil, nil, badID(id)
	}
	path := filepath.Join(s.dir, id)
	data, err := os.ReadFile(path)
	if err == nil {
		snap, damage := s.check(id, data)
		if damage == nil {
			s.touch(path)
			return data, snap, nil
		}
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read snapshot %.12s: %w", id, err)
	}
	return nil, nil, api.Errorf(404, api.CodeNoSnapshot, "no snapshot %.12s; open the stream again", id)
}

// touch makes a snapshot the youngest, so that prune keeps those that are in use.
func (s *Snapshots) touch(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // it may have been pruned just now; it is in memory then
}

// Get returns a snapshot from memory, disk or a peer.
func (s *Snapshots) Get(ctx context.Context, id string) (*sampler.Snapshot, error) {
	if snap := s.recall(id); snap != nil {
		s.touch(filepath.Join(s.dir, id))
		return snap, nil
	}
	_, snap, err := s.read(id)
	if err == nil {
		s.remember(id, snap)
		return snap, nil
	}
	var ae *api.Error
	if !errors.As(err, &ae) || ae.Code != api.CodeNoSnapshot {
		return nil, err
	}
	data, err := s.fetch(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.put(id, data)
}

// recall finds a snapshot in memory.
func (s *Snapshots) recall(id string) *sampler.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.memory[id]
	if snap != nil {
		i := slices.Index(s.recent, id)
		s.recent = append(slices.Delete(s.recent, i, i+1), id)
	}
	return snap
}

func (s *Snapshots) remember(id string, snap *sampler.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory[id] != nil {
		return
	}
	s.memory[id] = snap
	s.recent = append(s.recent, id)
	if len(s.recent) > keepInMemory {
		delete(s.memory, s.recent[0])
		s.recent = s.recent[1:]
	}
}

// prune removes the snapshots that were not used for longest, beyond what is kept.
func (s *Snapshots) prune() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) <= keepOnDisk {
		return err
	}
	type aged struct {
		name string
		time int64
	}
	files := make([]aged, 0, len(entries))
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			files = append(files, aged{e.Name(), info.ModTime().UnixNano()})
		}
	}
	sort.Slice(files, func(a, b int) bool { return files[a].time < files[b].time })
	for _, f := range files[:max(0, len(files)-keepOnDisk)] {
		if err := os.Remove(filepath.Join(s.dir, f.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
