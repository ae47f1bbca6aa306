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
	// New says that the node has not been a member with this directory yet.
	New bool `json:"new,omitempty"`
}

const identityFile = "node.json"

// directories are a node's, and what they tell of it.
type directories struct {
	self identity
	all  []string
	new  []string // the node was never a member with these: what else was in their place is lost
	// blank have no identity yet.
	blank []string
}

// identify settles the node's id. known are directories that the node has had for long: one that tells nothing now, be
// it empty or broken, is not taken for a new one.
func identify(c *Config, known func(dir string) bool) (*directories, error) {
	d := &directories{all: c.DataDirs}
	for _, dir := range c.DataDirs {
		if !known(dir) {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return nil, fmt.Errorf("data directory: %w", err)
			}
		}
		found, err := readIdentity(dir)
		switch {
		case err != nil && known(dir):
			continue // the store says what is wrong with it
		case errors.Is(err, os.ErrNotExist):
			d.blank, d.new = append(d.blank, dir), append(d.new, dir)
			continue
		case err != nil:
			return nil, err
		}
		if found.New {
			d.new = append(d.new, dir)
		}
		found.New = false
		if d.self.ID != "" && found != d.self {
			return nil, fmt.Errorf("data directory %s belongs to %s %s, the others to %s %s", dir, found.Role, found.ID, d.self.Role, d.self.ID)
		}
		d.self = found
	}
	if d.self.ID == "" && len(d.new) < len(d.all) {
		return nil, fmt.Errorf("none of the data directories %v tells whose it is: are they mounted?", d.all)
	}
	if d.self.ID == "" {
		d.self = identity{ID: c.ID, Role: c.Role}
		if d.self.ID == "" {
			var b [4]byte
			_, _ = rand.Read(b[:]) // never fails: see crypto/rand
			d.self.ID = c.Role + "-" + hex.EncodeToString(b[:])
		}
	}
	if d.self.Role != c.Role || c.ID != "" && d.self.ID != c.ID {
		return nil, fmt.Errorf("the data directory belongs to %s %s: it can't be started as %s %s", d.self.Role, d.self.ID, c.Role, c.ID)
	}
	c.ID = d.self.ID
	return d, nil
}

// fresh says that the node was never a member with any of its directories.
func (d *directories) fresh() bool { return len(d.new) == len(d.all) }

// replaced says that it was with some of them only: others may have been in the place of the new ones.
func (d *directories) replaced() bool { return len(d.new) > 0 && !d.fresh() }

// keep puts the id into the directories that do not have it yet. A target does so once its disks are formatted, which
// must find them empty.
func (d *directories) keep() error {
	for _, dir := range d.blank {
		i := d.self
		i.New = true
		if err := writeIdentity(dir, i); err != nil {
			return err
		}
	}
	return nil
}

// joined is called once the node is a member, which knows then what the new directories have not.
func (d *directories) joined() error {
	for _, dir := range d.new {
		if err := writeIdentity(dir, d.self); err != nil {
			return err
		}
	}
	return nil
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
	return writeFile(dir, identityFile, append(data, '\n'))
}

// writeFile replaces a small file of a data directory.
func writeFile(dir, name string, data []byte) error {
	f, err := os.CreateTemp(dir, name+".*")
	if err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep %s: %w", name, err), os.Remove(f.Name()))
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
