package cache

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// Choose says which part of an object a read is about, once it is known what there is; n < 0: all of it.
type Choose func(info *store.Info) (off, n int64, err error)

// Part reads a part of an object: from here where the whole is (object), else straight from the backend, or from what a
// fetch under way has brought already. The whole is fetched in the background, if there is room.
func (c *Cache) Part(ctx context.Context, b *api.Bucket, key string, choose Choose) (*store.Object, *Reading, error) {
	var last error
	for range maxTries {
		info, err := c.look(ctx, b, key, false)
		if err != nil {
			return nil, nil, err
		}
		if info.Kind == store.Whole || isOwn(&info) {
			object, err := c.Store.Open(b.Name, key)
			if errors.Is(err, store.ErrStub) || errors.Is(err, store.ErrNotFound) {
				continue // evicted meanwhile
			}
			if err == nil {
				info = object.Info()
				c.Touch(&info)
				c.meter.hit(info.Size)
			}
			return object, nil, err
		}
		off, n, err := choose(&info)
		if err != nil {
			return nil, nil, err
		}
		if n < 0 {
			return c.Get(ctx, b, key)
		}
		reading, err := c.PartOf(ctx, b, &info, off, n)
		if !again(err) {
			return nil, reading, err
		}
		last = err
	}
	return nil, nil, gaveUp(b.Name, key, last)
}

// PartOf reads a part of an object that is not here, as it was described a moment ago. It has to be of the same tag.
func (c *Cache) PartOf(ctx context.Context, b *api.Bucket, info *store.Info, off, n int64) (*Reading, error) {
	if n == 0 {
		return &Reading{Info: *info, Offset: off, Body: io.NopCloser(eof{})}, nil
	}
	if r := c.alongside(ctx, b, info, off, n); r != nil {
		return r, nil
	}
	tag, _ := tagOf(info)
	body, err := c.openPart(ctx, b, info.Name, backend.OpenOptions{Offset: off, Length: n, Tag: asked(tag)})
	if kindIs(err, backend.Changed) {
		c.seen.drop(objectKey{b.Name, info.Name}) // what is said of it next is what the backend says now
		return nil, errors.Join(errAgain, c.recheck(ctx, b, info.Name), err)
	}
	if err != nil {
		return nil, err
	}
	if now := originOf(&body.Entry); now != tag {
		_, err := c.saw(b.Name, info.Name, body.Entry, time.Now())
		return nil, errors.Join(errAgain, err, body.Close())
	}
	c.meter.miss()
	c.fillLater(b, info.Name, info.Size)
	return &Reading{Info: *info, Offset: off, Size: n, Body: &limited{body: body, left: n}}, nil
}

// recheck looks at an object that was found to have changed, whatever the policy says.
func (c *Cache) recheck(ctx context.Context, b *api.Bucket, key string) error {
	_, err := c.compare(ctx, b, key)
	return err
}

// nearby is how far behind what a fetch has brought a part may begin that waits for it.
const nearby = 16 << 20

// alongside reads a part behind the fetch that is under way; nil where that is not near it, or there is none.
func (c *Cache) alongside(ctx context.Context, b *api.Bucket, info *store.Info, off, n int64) *Reading {
	f := c.current(b.Name, info.Name)
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.growing == nil || f.ending || f.info.Version != info.Version || f.info.Size < 0 || off+n > f.info.Size-withheld {
		return nil
	}
	follower, ok := f.growing.Follow()
	if !ok {
		return nil
	}
	if follower.Written()+nearby < off+n {
		_ = follower.Close() // only read
		return nil
	}
	f.waiting++
	f.followed = true
	c.meter.miss()
	r := &following{f: f, follower: follower, ctx: ctx, size: f.info.Size, end: off + n, off: off, info: f.info}
	return &Reading{Info: f.info, Offset: off, Size: n, Body: r}
}

// openPart opens a part of a backend's object.
func (c *Cache) openPart(ctx context.Context, b *api.Bucket, key string, o backend.OpenOptions) (*backend.Body, error) {
	remote, err := c.Backends.Get(ctx, b)
	if err != nil {
		return nil, err
	}
	body, err := remote.Open(ctx, key, o)
	if err != nil {
		return nil, err
	}
	counted := &countingReader{r: body.ReadCloser, n: &c.meter.backendBytes}
	body.ReadCloser = struct {
		io.Reader
		io.Closer
	}{counted, body.ReadCloser}
	return body, nil
}

// through reads an object from its backend for one reader, where it can't be kept.
func (c *Cache) through(ctx context.Context, b *api.Bucket, key string) (*Reading, error) {
	begun := time.Now()
	body, err := c.openPart(ctx, b, key, backend.OpenOptions{})
	if err != nil {
		return nil, err
	}
	here, err := c.here(b.Name, key)
	if err != nil {
		return nil, errors.Join(err, body.Close())
	}
	last := c.seen.put(objectKey{b.Name, key}, body.Entry, &here, c.Version, begun)
	if last.tag != originOf(&body.Entry) { // it has changed since this was asked for
		return nil, errors.Join(errAgain, body.Close())
	}
	info := merge(&here, &last, b.Name, key)
	left := info.Size
	if left < 0 {
		return &Reading{Info: info, Size: -1, Body: body}, nil
	}
	return &Reading{Info: info, Size: left, Body: &limited{body: body, left: left}}, nil
}

// limited reads a body of a known length: less is an error, and so is more. Its last bytes come once the body has ended
// without an error, so that nothing that turns out to be damaged is taken for complete.
type limited struct {
	body *backend.Body
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left == 0 {
		return 0, io.EOF
	}
	n, err := l.body.Read(p[:min(int64(len(p)), l.left)])
	if l.left -= int64(n); l.left == 0 {
		if err = l.end(err); err != nil {
			l.left = int64(n) // who reads on gets the error again
			return 0, err
		}
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// end reads on to the end of the body, where a backend says that the whole does not have its checksum.
func (l *limited) end(err error) error {
	for err == nil {
		var one [1]byte
		var n int
		if n, err = l.body.Read(one[:]); n > 0 {
			return errors.New("the backend sends more than it said")
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (l *limited) Close() error { return l.body.Close() }

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// Member finds out where the members of an archive are that may not be here: by its index, or a scan of its headers. Its
// Kind is Whole where its bytes are here. The index is nil for those, and for what is no archive.
func (c *Cache) Member(ctx context.Context, b *api.Bucket, key string) (store.Info, *archive.Index, error) {
	var last error
	for range maxTries {
		info, err := c.look(ctx, b, key, false)
		if err != nil || info.Kind == store.Whole || isOwn(&info) || archive.FormatOf(key) == archive.None {
			return info, nil, err
		}
		described, err := c.describe(ctx, b, entryOf(&info))
		if err == nil {
			info, index, err := c.Store.Describe(b.Name, key)
			if err == nil && index == nil && info.Archive != archive.None && info.Kind == store.Stub { // it is with the bytes alone
				info, err = c.fetch(ctx, b, key, want{urgent: true})
			}
			if err == nil && info.Version == described.Version {
				return info, index, nil
			}
			if last = errAgain; err != nil && !again(err) {
				return info, nil, err
			}
			continue
		}
		if !again(err) && !changes(err) {
			return info, nil, err
		}
		last = err
		if err := c.recheck(ctx, b, key); err != nil {
			return info, nil, err
		}
	}
	return store.Info{}, nil, gaveUp(b.Name, key, last)
}

// entryOf is what a backend is known to have.
func entryOf(i *store.Info) backend.Entry {
	tag, _ := tagOf(i)
	return backend.Entry{Name: i.Name, Size: i.Size, Modified: i.Created, Tag: asked(tag), ContentType: i.ContentType}
}
