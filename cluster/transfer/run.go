package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/shardstream/shardstream/core/backend"
)

// Options say how files are copied.
type Options struct {
	Jobs        int   // files at once
	Rate        int64 // bytes a second; 0: as fast as it goes
	Filter      Filter
	NoOverwrite bool // leave alone what is there (Copy)
	Checksum    bool // compare content where nothing but size and time is known (Sync)
	Delete      bool // delete what the source has not (Sync)
	Force       bool // delete even where the source is empty, or files failed (Sync)
	DryRun      bool // do nothing, but say what would be done
	ContentType string
	Opaque      bool
	Observer    Observer
}

// Observer is told of the work. Its methods are called from many goroutines.
type Observer interface {
	// Planned counts the bytes of files that are going to be copied.
	Planned(bytes int64)
	// Listed says that nothing more is going to be planned.
	Listed()
	// Moved counts bytes that were read.
	Moved(bytes int64)
	// Done reports a file.
	Done(Event)
}

// Actions of an Event.
const (
	Copied  = "copy"
	Skipped = "skip"
	Deleted = "delete"
	Failed  = "fail"
)

// Event is what was done about a file, or would be.
type Event struct {
	Action      string
	Source      string // address; "" for Deleted
	Destination string
	Size        int64
	Reason      string
	Err         error // of Failed
}

// Totals sum up a run.
type Totals struct {
	Copied, Skipped, Deleted, Failed int64
	Bytes                            int64 // of files that were copied
}

// run is the work of one Copy or Sync.
type run struct {
	o     Options
	limit *rate.Limiter
	group errgroup.Group

	mu     sync.Mutex
	totals Totals
}

func newRun(o Options) *run {
	r := &run{o: o}
	if o.Rate > 0 {
		r.limit = rate.NewLimiter(rate.Limit(o.Rate), burst)
	}
	r.group.SetLimit(max(o.Jobs, 1))
	return r
}

// report counts an event and passes it on.
func (r *run) report(e Event) {
	r.mu.Lock()
	switch e.Action {
	case Copied:
		r.totals.Copied++
		r.totals.Bytes += max(e.Size, 0)
	case Skipped:
		r.totals.Skipped++
	case Deleted:
		r.totals.Deleted++
	case Failed:
		r.totals.Failed++
	}
	r.mu.Unlock()
	r.o.Observer.Done(e)
}

// end waits for all that was begun.
func (r *run) end(ctx context.Context) (Totals, error) {
	r.o.Observer.Listed()
	_ = r.group.Wait() // the jobs report what goes wrong, and return nothing
	return r.totals, context.Cause(ctx)
}

// Copy copies what sources stand for to a target.
func Copy(ctx context.Context, sources []*Source, to *Target, o Options) (Totals, error) {
	r := newRun(o)
	taken := map[string]string{} // of several sources: who a destination is of
	for _, source := range sources {
		for file, err := range source.files(ctx) {
			if ctx.Err() != nil {
				return r.end(ctx)
			}
			if err != nil {
				r.report(Event{Action: Failed, Source: source.Side.String(), Err: err})
				continue
			}
			name := to.nameOf(source, file)
			if isMarker(file) || (source.One == nil && !o.Filter.Match(file.Name)) {
				continue
			}
			e := Event{Action: Copied, Source: source.Side.String() + file.Name, Destination: to.Side.String() + name, Size: file.Size}
			if len(sources) > 1 {
				if other, twice := taken[name]; twice {
					e.Action, e.Err = Failed, fmt.Errorf("%s would be the same file at the destination", other)
					r.report(e)
					continue
				}
				taken[name] = e.Source
			}
			r.begin(ctx, source.Side, file, to.Side, name, e)
		}
		if err := source.missing(); err != nil && ctx.Err() == nil {
			r.report(Event{Action: Failed, Source: source.Side.String(), Err: err})
		}
	}
	return r.end(ctx)
}

// isMarker tells what some programs put where a person has made a folder.
func isMarker(f File) bool { return strings.HasSuffix(f.Name, "/") && f.Size <= 0 }

// begin copies a file as soon as one of the run's jobs is free.
func (r *run) begin(ctx context.Context, from Side, file File, to Side, name string, e Event) {
	r.o.Observer.Planned(max(file.Size, 0))
	r.group.Go(func() error {
		r.one(ctx, from, file, to, name, e)
		return nil
	})
}

// one copies a file and reports it.
func (r *run) one(ctx context.Context, from Side, file File, to Side, name string, e Event) {
	if ctx.Err() != nil {
		return
	}
	stored, err := r.copyOrSay(ctx, from, file, to, name)
	switch {
	case ctx.Err() != nil && err != nil:
		return // what was broken off is no failure of the file
	case errors.Is(err, ErrExists) && r.o.NoOverwrite:
		e.Action, e.Reason = Skipped, ReasonExists
	case err != nil:
		e.Action, e.Err = Failed, err
	case stored.Size >= 0:
		e.Size = stored.Size
	}
	r.report(e)
}

func (r *run) copyOrSay(ctx context.Context, from Side, file File, to Side, name string) (File, error) {
	if !r.o.DryRun {
		return r.copy(ctx, from, file, to, name)
	}
	if l, ok := to.(*Local); ok {
		if err := checkLocalName(name); err != nil {
			return File{}, l.failure("put", name, err)
		}
	}
	if r.o.NoOverwrite {
		switch _, err := to.Stat(ctx, name); {
		case err == nil:
			return File{}, ErrExists
		case backend.KindOf(err) != backend.NotFound:
			return File{}, err
		}
	}
	return file, nil
}

// copy copies one file. One that was changed since it was listed is copied as it is now.
func (r *run) copy(ctx context.Context, from Side, file File, to Side, name string) (File, error) {
	stored, err := r.copyOnce(ctx, from, file, to, name)
	if backend.KindOf(err) != backend.Changed || ctx.Err() != nil {
		return stored, err
	}
	now, statErr := from.Stat(ctx, file.Name)
	if statErr != nil {
		return stored, statErr
	}
	return r.copyOnce(ctx, from, now, to, name)
}

func (r *run) copyOnce(ctx context.Context, from Side, file File, to Side, name string) (File, error) {
	ctx, cancel := context.WithCancel(ctx)
	wants, ok := to.(interface{ wantsMD5() bool })
	body := newBody(ctx, from, file, ok && wants.wantsMD5(), r.limit, r.o.Observer.Moved)
	defer body.Close()
	defer cancel() // first, so that no read is waited for
	stored, err := to.Put(ctx, name, body, file.Size, PutOptions{
		Source: file, ContentType: r.o.ContentType, Opaque: r.o.Opaque, NoOverwrite: r.o.NoOverwrite,
	})
	if err != nil {
		return stored, err
	}
	return stored, r.verify(ctx, body, to, name, stored)
}

// verify compares what was stored with what was read. What differs must not stay under its name.
func (r *run) verify(ctx context.Context, body *Body, to Side, name string, stored File) error {
	sums, whole := body.Sums()
	_, difference := compareSums(stored.Sums, sums)
	if !whole {
		difference = ""
	}
	if sent := body.length(); stored.Size >= 0 && stored.Size != sent {
		difference = fmt.Sprintf("%d bytes, not %d", stored.Size, sent)
	}
	if difference == "" {
		return nil
	}
	err := failure(to, "put", name, backend.Corrupt, errors.New("it was stored as other bytes than were sent: "+difference))
	if removeErr := to.Delete(context.WithoutCancel(ctx), name); removeErr != nil {
		err = errors.Join(err, fmt.Errorf("and it can't be removed: %w", removeErr))
	}
	return err
}

// Fetch writes one file to a stream, verified: what is damaged ends in an error.
func Fetch(ctx context.Context, source *Source, w io.Writer, o Options) (Totals, error) {
	r := newRun(o)
	if source.One == nil {
		return Totals{}, refusef("%s is a folder: a stream takes one file", source.Side)
	}
	file := *source.One
	o.Observer.Planned(max(file.Size, 0))
	o.Observer.Listed()
	body := newBody(ctx, source.Side, file, false, r.limit, o.Observer.Moved)
	defer body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{body}, make([]byte, 1<<20))
	if err != nil {
		return Totals{Failed: 1}, err
	}
	return Totals{Copied: 1, Bytes: n}, nil
}

// nameOf is the name of a source's file at the target.
func (t *Target) nameOf(s *Source, file File) string {
	switch {
	case s.One == nil:
		return file.Name
	case t.Name != "":
		return t.Name
	}
	return path.Base(file.Name)
}
