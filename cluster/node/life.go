package node

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/cluster/membership"
)

// life tells a target that ended by itself from one that was killed. A write that was under way then may be on some of
// the targets that were to have it: nobody was told that it is, and nobody that it isn't, and it is not to stay so.
type life struct {
	path   string
	killed bool // the life before this one
}

// beginLife notes in the directory that the node runs.
func beginLife(dir string) (*life, error) {
	l := &life{path: filepath.Join(dir, "running")}
	if _, err := os.Stat(l.path); err == nil {
		l.killed = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return l, os.WriteFile(l.path, nil, 0o600)
}

// end notes that it has ended in order. Where that can't be noted, the next life looks at what need not be looked at.
func (l *life) end() { _ = os.Remove(l.path) }

// lookAgain has all targets look at what they have, if the life before this one ended at once. A bucket with one copy of
// each object has nothing to compare.
func (l *life) lookAgain(ctx context.Context, m *membership.Membership) error {
	if !l.killed {
		return nil
	}
	for _, b := range m.View().Buckets() {
		if b.Copies() > 1 {
			_, err := heal.Change(ctx, m, func(c *heal.Control) { c.Round++ })
			return err
		}
	}
	return nil
}
