package stream

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"weak"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

// pageStore keeps pages in files that are named by their content. It knows those in memory as long as a
// snapshot holds them, so that snapshots share what they have in common.
type pageStore struct {
	dir     string
	written atomic.Int64 // since the last sweep

	mu     sync.Mutex
	memory map[sampler.PageID]weak.Pointer[sampler.Page]
}

func (s *pageStore) open(dir string) error {
	s.dir, s.memory = dir, make(map[sampler.PageID]weak.Pointer[sampler.Page])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of snapshot pages: %w", err)
	}
	return removeUnfinished(dir)
}

func (s *pageStore) path(id sampler.PageID) string { return filepath.Join(s.dir, id.String()) }

// share returns the page that is in memory with the same content, which is p where there was none.
func (s *pageStore) share(p *sampler.Page) *sampler.Page {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.memory[p.ID()].Value(); have != nil {
		return have
	}
	s.memory[p.ID()] = weak.Make(p)
	runtime.AddCleanup(p, s.forget, p.ID())
	return p
}

// forget drops the entry of a page that nobody holds any more, unless it has come back meanwhile.
func (s *pageStore) forget(id sampler.PageID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory[id].Value() == nil {
		delete(s.memory, id)
	}
}

// get finds a page in memory or on the disk. A file whose content is not the page's is removed.
func (s *pageStore) get(id sampler.PageID) *sampler.Page {
	s.mu.Lock()
	have := s.memory[id].Value()
	s.mu.Unlock()
	if have != nil {
		return have
	}
	data, err := os.ReadFile(s.path(id))
	if err != nil {
		return nil // absent, or as good as that
	}
	p, err := sampler.ParsePage(data)
	if err != nil || p.ID() != id {
		_ = os.Remove(s.path(id)) // else the next reader removes it
		return nil
	}
	return p
}

// put writes a page.
func (s *pageStore) put(p *sampler.Page) error {
	wrote, err := write(s.path(p.ID()), p.Data())
	if wrote {
		s.written.Add(1)
	}
	return err
}

// write makes a file whole or not at all; one of the same size is taken for it. There is no fsync: what
// a crash loses or cuts is found out by its hash, and fetched again.
func write(path string, data []byte) (wrote bool, err error) {
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(data)) {
		touch(path)
		return false, nil
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), unfinished)
	if err != nil {
		return false, failedWrite(err)
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return false, failedWrite(errors.Join(err, os.Remove(tmp.Name())))
	}
	return true, nil
}

func failedWrite(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return api.Errorf(507, api.CodeNoSpace, "the disk of snapshots is full: %v; free some room", err)
	}
	return fmt.Errorf("store snapshot: %w", err)
}

// unfinished begins the names of files that were not renamed yet.
const unfinished = "new-"

// removeUnfinished removes what a crash left; nobody writes yet.
func removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the snapshot directory: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), unfinished) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove an unfinished snapshot: %w", err)
			}
		}
	}
	return nil
}
