package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// progress is how many bytes a body must bring before its attempts are counted anew: one that brings a few bytes each
// time would never end.
const progress = 64 << 10

// Open opens an object; see WithRetries for what the body does. The context bounds the body too.
func (p *patient) Open(ctx context.Context, name string, o OpenOptions) (*Body, error) {
	c := p.begin("open", name)
	r := &resumed{call: p.begin("read", name), ctx: ctx, next: o.Offset, end: -1, tag: o.Tag}
	body, err := r.first(c, o)
	c.observe(err, 0)
	if err != nil {
		return nil, err
	}
	return body, nil
}

// resumed reads a body in as many requests as it takes.
type resumed struct {
	*call
	ctx   context.Context //nolint:containedctx // of the call that opened the body; it bounds all reads
	entry Entry
	tag   string
	next  int64 // offset of the next byte within the object
	from  int64 // where next was when attempts were last counted anew
	end   int64 // offset after the last byte; -1: as far as it goes
	read  int64
	sum   *verifier // nil where there is nothing to compare, or not of the whole object

	body     io.ReadCloser // nil between requests
	watched  context.Context
	watch    *watch
	finished error
	closing  sync.Once
}

func (r *resumed) first(c *call, o OpenOptions) (*Body, error) {
	if err := r.bodies.enter(r.ctx, c.start.Add(r.policy.Patience)); err != nil {
		return nil, c.refused(r.ctx, err, nil)
	}
	var answer *Body
	err := c.run(r.ctx, func(ctx context.Context) (err error) {
		if answer, err = r.open(ctx, c, o); err != nil {
			return err
		}
		if err := r.fits(c, answer); err != nil {
			return err
		}
		return r.measure(ctx, c, answer)
	})
	if err != nil {
		r.bodies.leave()
		return nil, err
	}
	r.entry, r.from = answer.Entry, r.next
	if answer.Entry.Tag != "" {
		r.tag = answer.Entry.Tag
	}
	r.end = endOf(answer, o)
	if size := answer.Entry.Size; answer.Offset == 0 && (size >= 0 && r.end == size || size < 0 && o.Length == 0) {
		r.sum = newVerifier(answer.Entry.Sums)
	}
	length := int64(-1)
	if r.end >= 0 {
		length = r.end - r.next
	}
	r.requests, r.fresh = 1, 0
	return &Body{ReadCloser: r, Entry: answer.Entry, Offset: answer.Offset, Length: length}, nil
}

// endOf is where a range ends; -1 where nothing says so.
func endOf(b *Body, o OpenOptions) int64 {
	switch size := b.Entry.Size; {
	case size >= 0 && o.Length > 0:
		return min(size, o.Offset+o.Length)
	case size >= 0:
		return size
	case b.Length >= 0:
		return b.Offset + b.Length
	}
	return -1
}

// open makes one request for a body, which is then r.body.
func (r *resumed) open(ctx context.Context, c *call, o OpenOptions) (*Body, error) {
	watched, watch := newWatch(ctx, r.policy.Timeout)
	watch.arm()
	body, err := r.Backend.Open(watched, r.name, o)
	watch.disarm()
	if err == nil && watched.Err() != nil { // the watch was quicker; its body would end with the context's error
		_ = body.Close()
		err = context.Cause(watched)
	}
	if err != nil {
		err = c.slow(ctx, watched, err)
		watch.stop()
		return nil, err
	}
	watch.limit = r.policy.Stall
	r.body, r.watched, r.watch = body.ReadCloser, watched, watch
	return body, nil
}

// Read implements io.Reader.
func (r *resumed) Read(p []byte) (int, error) {
	if len(p) == 0 && r.finished == nil {
		return 0, nil
	}
	for r.finished == nil {
		if r.body == nil {
			if r.finished = r.resume(); r.finished != nil {
				break
			}
		}
		if r.end >= 0 {
			p = p[:min(int64(len(p)), max(r.end-r.next, 1))] // one more where all is there: to see the end
		}
		r.watch.arm()
		n, err := r.body.Read(p)
		r.watch.disarm()
		n, err = r.account(p, n, err)
		if err != nil {
			r.finished = r.ended(err)
		} else if n > 0 && r.next == r.end {
			r.finished = r.damage()
		}
		if n > 0 && (r.finished == nil || KindOf(r.finished) != Corrupt) { // nobody gets all of what is damaged
			return n, nil
		}
	}
	return 0, r.finished
}

func (r *resumed) account(p []byte, n int, err error) (int, error) {
	if r.end >= 0 && int64(n) > r.end-r.next {
		return 0, &Error{
			Backend: r.policy.Backend, Op: r.op, Name: r.name, Kind: Corrupt,
			Err: fmt.Errorf("more than the %d bytes that it said", r.end),
		}
	}
	if r.sum != nil {
		r.sum.write(p[:n])
	}
	r.next += int64(n)
	r.read += int64(n)
	if r.next-r.from >= progress {
		r.from, r.fresh = r.next, 0
	}
	return n, err
}

// ended is what the end of a request means for the body: nil where it goes on with another.
func (r *resumed) ended(err error) error {
	complete := errors.Is(err, io.EOF) && (r.end < 0 || r.next == r.end)
	failure := r.typed(r.ctx, r.slow(r.ctx, r.watched, cutShort(err)))
	r.drop()
	if complete {
		return r.verify()
	}
	var own *Error // says itself what it is
	if !errors.As(err, &own) && r.ctx.Err() == nil {
		failure.Kind = Passing // a body has no other way to break off
	}
	if failure.Kind == Busy {
		r.gate.busy(failure.After)
		failure.Kind = Passing // counts as an attempt
	}
	switch {
	case !r.again(failure):
		return failure
	case r.tag == "" && r.next > 0:
		failure.Err = fmt.Errorf("it broke off after %d bytes, and has no tag by which the rest could be read: %w", r.read, failure.Err)
		return failure
	}
	if !sleep(r.ctx, r.wait()) {
		return r.refused(r.ctx, context.Cause(r.ctx), failure)
	}
	return nil
}

// cutShort keeps an early end from looking like a clean one.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// resume asks for the rest.
func (r *resumed) resume() error {
	o := OpenOptions{Offset: r.next, Tag: r.tag}
	if r.end >= 0 {
		if o.Length = r.end - r.next; o.Length == 0 { // cut between the last byte and the end
			return r.verify()
		}
	}
	return r.run(r.ctx, func(ctx context.Context) error {
		answer, err := r.open(ctx, r.call, o)
		if err != nil {
			return err
		}
		if err := r.fits(r.call, answer); err != nil {
			return err
		}
		if size := answer.Entry.Size; r.end < 0 && size >= 0 { // the first answer did not say
			r.end = size
		}
		return nil
	})
}

// measure asks how large an object is whose answer does not say: without that, a body that ends early looks whole.
func (r *resumed) measure(ctx context.Context, c *call, answer *Body) error {
	if answer.Entry.Size >= 0 {
		return nil
	}
	var e Entry
	err := c.within(ctx, func(ctx context.Context) (err error) {
		e, err = r.Backend.Stat(ctx, r.name)
		return err
	})
	if err != nil {
		r.drop()
		return err
	}
	same := e.Tag == answer.Entry.Tag && e.Tag != "" || answer.Entry.Tag == "" && !e.Modified.IsZero() && e.Modified.Equal(answer.Entry.Modified)
	if same {
		answer.Entry = e
	}
	return nil
}

// fits refuses an answer that is not what was asked for, and ends it.
func (r *resumed) fits(c *call, answer *Body) error {
	fault, kind := "", Changed
	size := answer.Entry.Size
	switch {
	case r.tag != "" && answer.Entry.Tag != r.tag, c == r.call && size != r.entry.Size && size >= 0 && r.entry.Size >= 0:
		fault = fmt.Sprintf("it is another object than before (tag %q, not %q)", answer.Entry.Tag, r.tag)
	case answer.Offset != r.next:
		kind, fault = Failed, fmt.Sprintf("it answered from byte %d on, not from byte %d", answer.Offset, r.next)
	default:
		return nil
	}
	r.drop()
	return &Error{Backend: r.policy.Backend, Op: c.op, Name: r.name, Kind: kind, Err: errors.New(fault)}
}

// verify ends the body: io.EOF if all is well.
func (r *resumed) verify() error {
	if err := r.damage(); err != nil {
		return err
	}
	return io.EOF
}

// damage is that of the bytes that were read, all of the object.
func (r *resumed) damage() error {
	if r.sum == nil {
		return nil
	}
	if err := r.sum.check(); err != nil {
		return &Error{Backend: r.policy.Backend, Op: r.op, Name: r.name, Kind: Corrupt, Err: err}
	}
	return nil
}

// drop ends the request under way.
func (r *resumed) drop() {
	if r.body != nil {
		r.watch.stop()
		_ = r.body.Close()
		r.body = nil
	}
}

// Close gives the connection back. Reads fail afterwards.
func (r *resumed) Close() error {
	r.closing.Do(func() {
		r.drop()
		var err error
		if r.finished != nil && !errors.Is(r.finished, io.EOF) {
			err = r.finished
		}
		r.finished = errors.New("read of a closed body")
		r.bodies.leave()
		r.observe(err, r.read)
	})
	return nil
}
