package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Layout is the directory of a local cluster.
type Layout struct{ Dir string }

// DefaultDir is where a cluster lives if nobody says otherwise: $XDG_STATE_HOME/shardstream, or
// ~/.local/state/shardstream.
func DefaultDir() (string, error) {
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "shardstream"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no home directory for the cluster's files (%w); name one with --dir", err)
	}
	return filepath.Join(home, ".local", "state", "shardstream"), nil
}

// NewLayout makes dir absolute, as children are given its paths.
func NewLayout(dir string) (Layout, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Layout{}, err
	}
	if strings.ContainsAny(abs, ",\"\n") { // commas separate the disks on a node's command line
		return Layout{}, fmt.Errorf("the directory's path %q has a comma, a quote or a line end in it: choose another --dir", abs)
	}
	return Layout{Dir: abs}, nil
}

func (l Layout) spec() string            { return filepath.Join(l.Dir, "cluster.json") }
func (l Layout) data(node string) string { return filepath.Join(l.Dir, "data", node) }
func (l Layout) log(node string) string  { return filepath.Join(l.Dir, "logs", node+".log") }
func (l Layout) pid(node string) string  { return filepath.Join(l.Dir, "run", node+".pid") }
func (l Layout) disk(node string, i int) string {
	return filepath.Join(l.data(node), fmt.Sprintf("disk-%d", i))
}

// make creates the directories, for this user only: objects and tokens are nobody else's business.
func (l Layout) make() error {
	for _, sub := range []string{"data", "logs", "run"} {
		if err := os.MkdirAll(filepath.Join(l.Dir, sub), 0o700); err != nil {
			return fmt.Errorf("create the cluster's directory: %w; choose another with --dir", err)
		}
	}
	return nil
}

// writeFile replaces a file at once, so that a reader (or a crash) never meets half of it.
func writeFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
