package hdfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/shardstream/shardstream/core/backend"
)

// temporary begins the names of files that are being put. They are no objects; one is left where a node dies.
const temporary = ".shardstream-put-"

// How long a put waits for the namenode to count the replicas of its last block.
const (
	replicatingFor = time.Minute
	replicatingGap = 10 * time.Millisecond
)

// Put writes a file under another name and renames it: whoever reads sees the file before, or the new one.
func (f *Files) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions) (e backend.Entry, err error) {
	at, err := f.path("put", name)
	if err != nil {
		err.(*backend.Error).Kind = backend.Unsupported //nolint:errorlint,forcetypeassert // made there
		return e, err
	}
	lent := &source{body: body}
	defer lent.takeBack()
	put := make(chan backend.Entry, 1)
	err = f.do(ctx, "put", name, func(c *client) error {
		away := path.Join(path.Dir(at), temporary+rand.Text())
		if err := c.MkdirAll(path.Dir(at), 0o755); err != nil {
			return err
		}
		err := f.write(ctx, c, away, name, lent, size, o)
		if err == nil { // a put that was given up must not replace what is put after it
			err = context.Cause(ctx)
		}
		if err == nil {
			err = c.Rename(away, at)
		}
		if err != nil {
			if gone := f.discard(c, away); gone != nil {
				err = fmt.Errorf("%w (and %s is left for a day: %w)", err, away, gone)
			}
			return err
		}
		info, err := c.Stat(at)
		if err == nil {
			put <- entry(name, info)
		}
		return err
	})
	if err != nil {
		return e, err
	}
	f.sweep(path.Dir(at))
	return <-put, nil
}

// write writes a file, and has its bytes compared with the checksums that it is to have.
func (f *Files) write(ctx context.Context, c *client, at, name string, body *source, size int64, o backend.PutOptions) error {
	file, err := c.Create(at)
	if err != nil {
		return err
	}
	body.to = file
	_, err = backend.Summed(body, size, o.Sums, backend.Sums{})
	if err != nil {
		_ = file.Close() // it is removed
		if body.failed != nil {
			return body.failed
		}
		kind := backend.KindOf(err) // of the body, not of the connection
		var own *backend.Error
		if errors.As(err, &own) {
			err = own.Err
		}
		return f.fail("put", name, kind, err)
	}
	deadline := time.Now().Add(replicatingFor)
	for gap := replicatingGap; ; gap = min(2*gap, time.Second) {
		err := file.Close()
		if err == nil || !hdfs.IsErrReplicating(err) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(gap):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// source is a body that is written to a file while it is read for its checksums. Nobody reads it when Put has returned.
type source struct {
	to     io.Writer
	failed error // to write

	mu   sync.Mutex
	body io.ReadSeeker // nil once it was taken back
}

var errTakenBack = errors.New("the put that this body was for has ended")

func (s *source) Read(p []byte) (int, error) {
	n, err := s.read(p)
	if n > 0 {
		if _, s.failed = s.to.Write(p[:n]); s.failed != nil {
			return 0, s.failed
		}
	}
	return n, err
}

func (s *source) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.body == nil {
		return 0, errTakenBack
	}
	return s.body.Read(p)
}

func (s *source) Seek(offset int64, whence int) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.body == nil {
		return 0, errTakenBack
	}
	return s.body.Seek(offset, whence)
}

func (s *source) takeBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body = nil
}

// Delete implements backend.Backend. Directories stay.
func (f *Files) Delete(ctx context.Context, name string) error {
	at, err := f.path("delete", name)
	if err != nil {
		return nil //nolint:nilerr // there is no such object
	}
	err = f.do(ctx, "delete", name, func(c *client) error {
		info, err := c.Stat(at)
		if err == nil && !info.IsDir() {
			err = c.Remove(at)
		}
		return err
	})
	if absent(err) {
		return nil
	}
	return err
}
