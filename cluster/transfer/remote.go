package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/shardstream/shardstream/core/backend"
)

// Remote is a place that a backend reaches.
type Remote struct {
	backend backend.Backend
	address backend.Address
	// made says that a folder which is not there yet is made by the first Put: no error, but an empty listing. Only file
	// systems know of such.
	made bool
}

// NewRemote makes a side of a backend, opened by this configuration. It closes the backend.
func NewRemote(b backend.Backend, c backend.Config) *Remote {
	return &Remote{backend: b, address: c.Address}
}

func (r *Remote) String() string { return strings.TrimSuffix(r.address.String(), "/") + "/" }

// Sites implements Side.
func (r *Remote) Sites() []Site { return []Site{siteOf(r.address, "")} }

// siteOf is where the files below a prefix of a backend are. Endpoints are no part of it: two of them may be one service,
// and to refuse a copy between buckets of the same name is the smaller evil.
func siteOf(a backend.Address, prefix string) Site {
	at := strings.TrimSuffix(a.Path, "/")
	if at != "" {
		at += "/"
	}
	return Site{Store: a.Scheme + "://" + a.Host, Path: at + prefix}
}

// List implements Side.
func (r *Remote) List(ctx context.Context, prefix string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		for entry, err := range r.backend.List(ctx, prefix, "") {
			if r.made && backend.KindOf(err) == backend.NoBucket {
				return
			}
			if !yield(File{Entry: entry}, err) || err != nil {
				return
			}
		}
	}
}

// Stat implements Side.
func (r *Remote) Stat(ctx context.Context, name string) (File, error) {
	entry, err := r.backend.Stat(ctx, name)
	return File{Entry: entry}, err
}

// Open implements Side.
func (r *Remote) Open(ctx context.Context, name string, offset int64, tag string) (io.ReadCloser, error) {
	body, err := r.backend.Open(ctx, name, backend.OpenOptions{Offset: offset, Tag: tag})
	if err != nil {
		return nil, err
	}
	if body.Offset != offset {
		_ = body.Close()
		return nil, failure(r, "open", name, backend.Unsupported, errors.New("it does not give parts of a file"))
	}
	return body, nil
}

// Put implements Side.
func (r *Remote) Put(ctx context.Context, name string, body *Body, size int64, o PutOptions) (File, error) {
	if o.NoOverwrite {
		// Vendors differ in what conditions they know; another writer's file that comes between is replaced.
		switch _, err := r.backend.Stat(ctx, name); {
		case err == nil:
			return File{}, failure(r, "put", name, backend.Failed, ErrExists)
		case backend.KindOf(err) != backend.NotFound:
			return File{}, err
		}
	}
	options := backend.PutOptions{ContentType: o.ContentType, Meta: userMeta(o.Source.Meta), Sums: o.Source.Sums}
	if options.ContentType == "" {
		options.ContentType = o.Source.ContentType
	}
	if _, local := body.side.(*Local); local && size >= 0 {
		body.summedFirst = true
		entry, err := r.backend.Put(ctx, name, body, size, options)
		if source := body.failure(); err != nil && source != nil {
			err = source
		}
		return File{Entry: entry}, err
	}
	kept, err := keep(body, size)
	if err != nil {
		return File{}, err
	}
	defer kept.Close()
	options.Sums, _ = body.Sums()
	entry, err := r.backend.Put(ctx, name, kept, body.position(), options)
	return File{Entry: entry}, err
}

// inMemory is the size up to which a file on its way is kept in memory.
const inMemory = 8 << 20

// keep keeps a file on its way from one remote place to another: backends read what they put several times, back and
// forth, as vendors want to know checksums beforehand. What is large goes to a file that has no name.
func keep(body *Body, size int64) (io.ReadSeekCloser, error) {
	if size >= 0 && size <= inMemory {
		content, err := io.ReadAll(io.LimitReader(body, inMemory+1))
		return readSeekNopCloser{bytes.NewReader(content)}, err
	}
	file, err := os.CreateTemp("", "shardstream-*")
	if err != nil {
		return nil, err
	}
	err = os.Remove(file.Name())
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{file}, struct{ io.Reader }{body}, make([]byte, 1<<20))
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

type readSeekNopCloser struct{ *bytes.Reader }

func (readSeekNopCloser) Close() error { return nil }

// Delete implements Side.
func (r *Remote) Delete(ctx context.Context, name string) error { return r.backend.Delete(ctx, name) }

// Close implements Side.
func (r *Remote) Close() error { return r.backend.Close() }

// wantsMD5 says whether the vendor answers a Put by an MD5 of what it has.
func (r *Remote) wantsMD5() bool {
	return r.address.Scheme == backend.S3 || r.address.Scheme == backend.Azure
}
