package node

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/shardstream/shardstream/core/store"
)

// identity is kept in every data directory: a node that starts on a directory is the node that wrote
// it, whatever its address is today, and the disks of two nodes can't be mixed up.
type identity struct {
	ID   string `json:"id"`
	Role string `json:"role"`
}

const identityFile = "node.json"

// identify settles the node's id. The returned function keeps it in the directories that do not have it
// yet; a target calls it once its disks are formatted, which must find them empty.
func identify(c *Config) (keep func() error, err error) {
	var known identity
	var blank []string
	for _, dir := range c.DataDirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
		found, err := readIdentity(dir)
		switch {
		case errors.Is(err, os.ErrNotExist):
			blank = append(blank, dir)
			continue
		case err != nil:
			return nil, err
		}
		if known.ID != "" && found != known {
			return nil, fmt.Errorf("data directory %s belongs to %s %s, the others to %s %s", dir, found.Role, found.ID, known.Role, known.ID)
		}
		known = found
	}
	if known.ID == "" {
		known = identity{ID: c.ID, Role: c.Role}
		if known.ID == "" {
			var b [4]byte
			_, _ = rand.Read(b[:]) // never fails: see crypto/rand
			known.ID = c.Role + "-" + hex.EncodeToString(b[:])
		}
	}
	if known.Role != c.Role || c.ID != "" && known.ID != c.ID {
		return nil, fmt.Errorf("the data directory belongs to %s %s: it can't be started as %s %s", known.Role, known.ID, c.Role, c.ID)
	}
	c.ID = known.ID
	return func() error {
		for _, dir := range blank {
			if err := writeIdentity(dir, known); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

func readIdentity(dir string) (identity, error) {
	path := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return identity{}, fmt.Errorf("read the node's identity: %w", err)
	}
	var i identity
	if err := json.Unmarshal(data, &i); err != nil || i.ID == "" {
		return identity{}, fmt.Errorf("%s is damaged; write {\"id\": ..., \"role\": ...} as in the node's other directories", path)
	}
	return i, nil
}

// writeIdentity is atomic and durable: half a file would keep the node from starting.
func writeIdentity(dir string, i identity) error {
	data, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("keep the node's identity: %w", err)
	}
	f, err := os.CreateTemp(dir, identityFile+".*")
	if err != nil {
		return fmt.Errorf("keep the node's identity: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, identityFile))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep the node's identity: %w", err), os.Remove(f.Name()))
	}
	return nil
}

// disks names a target's disks after their directories; where two have the same name, the later one
// gets its number added.
func disks(dirs []string) []store.Disk {
	list := make([]store.Disk, len(dirs))
	taken := map[string]bool{}
	for i, dir := range dirs {
		id := filepath.Base(filepath.Clean(dir))
		if taken[id] || !validID(id) {
			id = fmt.Sprintf("disk-%d-%d", i+1, len(dirs))
		}
		taken[id] = true
		list[i] = store.Disk{ID: id, Path: dir}
	}
	return list
}
