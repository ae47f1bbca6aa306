package stream

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

const (
	keepOnDisk  = 256     // snapshots,
	keepPages   = 8 << 30 // and no more bytes of pages than this but of one
	pageGrace   = time.Hour
	sweepAfter  = 4096 // pages written
	loadTimeout = time.Minute
)

// write puts a snapshot on the disk. Where that is full, the copy in memory serves.
func (s *Snapshots) write(id string, snap *sampler.Snapshot) error {
	pack, whole := Pack(snap, inOneFile)
	if !whole {
		for _, p := range snap.Pages() {
			if err := s.pages.put(p); err != nil {
				return full(err)
			}
		}
	}
	// The root comes last: where it is, the pages were.
	wrote, err := write(filepath.Join(s.dir, id), pack)
	if err != nil || !wrote {
		return full(err)
	}
	return s.prune()
}

// full makes nothing of a full disk: that is no reason not to read from it.
func full(err error) error {
	var ae *api.Error
	if errors.As(err, &ae) && ae.Code == api.CodeNoSpace {
		return nil
	}
	return err
}

// touch makes a snapshot the youngest, so that prune keeps those that are in use.
func (s *Snapshots) touch(id string) { touch(filepath.Join(s.dir, id)) }

func touch(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now) // it may have been pruned just now; it is in memory then
}

// aged is a file, and when it was used last.
type aged struct {
	path string
	time time.Time
}

// files lists the files of a directory, those that were used last first.
func files(dir string) ([]aged, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	list := make([]aged, 0, len(entries))
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			list = append(list, aged{filepath.Join(dir, e.Name()), info.ModTime()})
		}
	}
	sort.Slice(list, func(a, b int) bool { return list[a].time.After(list[b].time) })
	return list, nil
}

// prune removes the snapshots that were not used for longest, beyond what is kept, and now and then the
// pages that no snapshot has.
func (s *Snapshots) prune() error {
	sweep := s.pages.written.Load() >= sweepAfter
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) <= keepOnDisk && !sweep {
		return err
	}
	roots, err := files(s.dir)
	if err != nil {
		return err
	}
	for len(roots) > keepOnDisk {
		if err := remove(roots[len(roots)-1].path); err != nil {
			return err
		}
		roots = roots[:len(roots)-1]
	}
	if !sweep {
		return nil
	}
	s.pages.written.Store(0)
	kept, err := keptPages(roots)
	if err != nil {
		return err
	}
	return s.pages.sweep(kept)
}

// keptPages are the pages of the snapshots that there is room for; the others are removed.
func keptPages(roots []aged) (map[string]bool, error) {
	kept := make(map[string]bool)
	var total int64
	for i, f := range roots {
		root := rootOf(f.path)
		if root == nil {
			continue // damaged: whoever reads it removes it
		}
		if i > 0 && total > keepPages {
			if err := remove(f.path); err != nil {
				return nil, err
			}
			continue
		}
		for _, p := range root.Pages() {
			if name := p.ID.String(); !kept[name] {
				kept[name] = true
				total += int64(p.Bytes)
			}
		}
	}
	return kept, nil
}

func rootOf(path string) *sampler.Root {
	pack, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	part, _, err := sampler.CutPart(pack)
	if err != nil {
		return nil
	}
	root, err := sampler.ParseRoot(part)
	if err != nil {
		return nil
	}
	return root
}

// sweep removes pages that are not kept, but for those that came so lately that their root may follow.
func (s *pageStore) sweep(kept map[string]bool) error {
	pages, err := files(s.dir)
	if err != nil {
		return err
	}
	young := time.Now().Add(-pageGrace)
	for _, f := range pages {
		if kept[filepath.Base(f.path)] || f.time.After(young) {
			continue
		}
		if err := remove(f.path); err != nil {
			return err
		}
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
