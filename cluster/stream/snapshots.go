package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"

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
	snap, err := s.check(id, data)
	if err != nil {
		return err
	}
	s.remember(id, snap)
	path := filepath.Join(s.dir, id)
	if _, err := os.Stat(path); err == nil {
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

func (s *Snapshots) check(id string, data []byte) (*sampler.Snapshot, error) {
	if !validID(id) {
		return nil, api.Errorf(400, api.CodeBadRequest, "%.80q is not a snapshot id", id)
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

// Data returns a snapshot's bytes if this node has them.
func (s *Snapshots) Data(id string) ([]byte, error) {
	if !validID(id) {
		return nil, api.Errorf(400, api.CodeBadRequest, "%.80q is not a snapshot id", id)
	}
	data, err := os.ReadFile(filepath.Join(s.dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, api.Errorf(404, api.CodeNoSnapshot, "no snapshot %.12s; open the stream again", id)
	}
	return data, err
}

// Get returns a snapshot from memory, disk or a peer.
func (s *Snapshots) Get(ctx context.Context, id string) (*sampler.Snapshot, error) {
	s.mu.Lock()
	snap := s.memory[id]
	s.mu.Unlock()
	if snap != nil {
		return snap, nil
	}
	data, err := s.Data(id)
	if err == nil {
		if snap, err = s.check(id, data); err == nil {
			s.remember(id, snap)
			return snap, nil
		}
		// Damaged on disk: a peer's copy replaces it.
		err = errors.Join(os.Remove(filepath.Join(s.dir, id)), api.Errorf(404, api.CodeNoSnapshot, "no snapshot %.12s", id))
	}
	var ae *api.Error
	if !errors.As(err, &ae) || ae.Code != api.CodeNoSnapshot {
		return nil, err
	}
	if data, err = s.fetch(ctx, id); err != nil {
		return nil, err
	}
	if err := s.Put(id, data); err != nil {
		return nil, err
	}
	return s.check(id, data)
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

// prune removes the oldest snapshots beyond what is kept.
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
