package outputs

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Load finds what an earlier process left, in the order in which that used it. Files that are no entries are removed.
func (c *Cache) Load(ctx context.Context) error {
	type found struct {
		entry
		used time.Time
	}
	folders, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var all []found
	for _, folder := range folders {
		if len(folder.Name()) != 2 || !folder.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(c.dir, folder.Name()))
		if err != nil {
			return err
		}
		for _, file := range files {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			path := filepath.Join(c.dir, folder.Name(), file.Name())
			e, used, err := stat(path, folder.Name()+file.Name())
			if errors.Is(err, os.ErrNotExist) {
				continue // evicted meanwhile
			}
			if err != nil {
				c.log.Warn("what is no output was removed from the cache", "file", path, "reason", err)
				_ = os.RemoveAll(path)
				continue
			}
			all = append(all, found{e, used})
		}
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Or(b.used.Compare(a.used), slices.Compare(a.key[:], b.key[:])) })
	c.mu.Lock()
	for i := range all {
		e := &all[i].entry
		e.touched = all[i].used
		if c.entries[e.key] == nil {
			if _, err := os.Lstat(c.path(e.key)); err == nil { // not evicted meanwhile
				c.recent.MoveToBack(c.add(e))
			}
		}
	}
	c.mu.Unlock()
	if err := c.reserve(0); err != nil { // the quota may be smaller than it was
		c.log.WarnContext(ctx, "outputs are not cached at present", "reason", err)
	}
	return nil
}

// stat reads what the index needs of a file.
func stat(path, name string) (e entry, used time.Time, err error) {
	var k Key
	if n, err := hex.Decode(k[:], []byte(name)); err != nil || n != len(k) {
		return e, used, errors.New("its name is no key")
	}
	file, err := os.Open(path)
	if err != nil {
		return e, used, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return e, used, err
	}
	out, err := read(file, k)
	if err != nil {
		return e, used, err
	}
	return entry{key: k, id: out.meta.origin(), size: out.onDisk}, info.ModTime(), nil
}

// Sweep drops the entries that stale says so of, by their identity without arguments. Nobody asks for those any more, so they would only wait to be evicted.
func (c *Cache) Sweep(stale func(Identity) bool) {
	c.mu.Lock()
	all := make([]*entry, 0, len(c.entries))
	for at := c.recent.Front(); at != nil; at = at.Next() {
		all = append(all, at.Value.(*entry)) //nolint:forcetypeassert // nothing else is in the list
	}
	c.mu.Unlock()
	for _, e := range all {
		if !stale(e.id) { // which may read a disk
			continue
		}
		c.mu.Lock()
		c.forget(e.key)
		c.mu.Unlock()
	}
}
