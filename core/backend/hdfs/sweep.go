package hdfs

import (
	"errors"
	"os"
	"path"
	"strings"
	"time"
)

const (
	// abandonedAfter is the age of a temporary file that no put writes any more: HDFS may tell the time when it was begun.
	abandonedAfter = 24 * time.Hour
	sweepEvery     = time.Hour // and directory
	maxSwept       = 1024
)

// discard removes the file of a put that failed. What has failed may be the connection, so there is another attempt.
func (f *Files) discard(c *client, at string) error {
	gone := c.Remove(at)
	if gone == nil || errors.Is(gone, os.ErrNotExist) {
		return nil
	}
	f.after(c, gone)
	again, err := f.connect()
	if err != nil {
		return gone
	}
	err = again.Remove(at)
	f.after(again, err)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// sweep removes what puts have left in a directory when their node died, in the background. Only who puts does so: a bucket
// that is read alone changes nothing.
func (f *Files) sweep(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.closed || now.Sub(f.swept[dir]) < sweepEvery {
		return
	}
	if f.swept == nil || len(f.swept) >= maxSwept {
		f.swept = map[string]time.Time{}
	}
	f.swept[dir] = now
	f.calls.Go(func() { // what fails here is left for the next sweep; it ends with the connection, as Close does
		c, err := f.connect()
		if err == nil {
			f.after(c, sweepBy(c, dir, now.Add(-abandonedAfter)))
		}
	})
}

func sweepBy(c *client, dir string, before time.Time) error {
	infos, err := c.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if info.IsDir() || !strings.HasPrefix(info.Name(), temporary) || info.ModTime().After(before) {
			continue
		}
		if err := c.Remove(path.Join(dir, info.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
