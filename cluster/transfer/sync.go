package transfer

import (
	"context"
	"fmt"
	"iter"

	"github.com/shardstream/shardstream/core/backend"
)

// Sync makes a folder like another: it copies what is missing or differs, and with o.Delete deletes what the source has
// not. Deleting comes last, and only where the source was listed whole and all else went well.
func Sync(ctx context.Context, from, to Side, o Options) (Totals, error) {
	r := newRun(o)
	var extra []File
	found, gaps := 0, false
	for p := range merged(ctx, from, to, o.Filter) {
		if ctx.Err() != nil {
			return r.end(ctx)
		}
		switch {
		case p.err != nil && p.source == nil:
			_, _ = r.end(ctx)
			return r.totals, p.err
		case p.err != nil:
			gaps = true
			r.report(Event{Action: Failed, Source: from.String(), Err: p.err})
		case p.source == nil:
			if o.Delete && listable(from, p.destination.Name) {
				extra = append(extra, *p.destination)
			}
		default:
			found++
			r.settle(ctx, from, to, p)
		}
	}
	totals, err := r.end(ctx)
	if err != nil || len(extra) == 0 {
		return totals, err
	}
	switch {
	case gaps: // not by force either: what was not listed may well be there
		err = fmt.Errorf("nothing was deleted at %s, as %s could not be listed whole", to, from)
	case found == 0 && !o.Force:
		err = fmt.Errorf("%s has no files: nothing was deleted at %s; --force deletes all %d there", from, to, len(extra))
	case totals.Failed > 0 && !o.Force:
		err = fmt.Errorf("nothing was deleted at %s, as %d files failed; --force deletes the %d that are not at the source all the same", to, totals.Failed, len(extra))
	}
	if err != nil {
		return totals, err
	}
	return r.remove(ctx, to, extra)
}

// listable says whether a side would list a file of that name. Where it would not, the file may be there.
func listable(side Side, name string) bool {
	_, local := side.(*Local)
	return local || backend.Lists(name)
}

// settle copies a file if the destination has it not.
func (r *run) settle(ctx context.Context, from, to Side, p pair) {
	file, name := *p.source, p.source.Name
	e := Event{Action: Copied, Source: from.String() + name, Destination: to.String() + name, Size: file.Size, Reason: ReasonNew}
	if p.destination == nil {
		r.begin(ctx, from, file, to, name, e)
		return
	}
	there := *p.destination
	r.group.Go(func() error {
		same, reason, err := r.compare(ctx, from, file, to, there)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			e.Action, e.Err = Failed, err
			r.report(e)
			return nil
		}
		e.Reason = reason
		if same {
			e.Action = Skipped
			r.report(e)
			return nil
		}
		r.o.Observer.Planned(max(file.Size, 0))
		r.one(ctx, from, file, to, name, e)
		return nil
	})
}

// remove deletes what the source has not.
func (r *run) remove(ctx context.Context, to Side, extra []File) (Totals, error) {
	for _, file := range extra {
		r.group.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			e := Event{Action: Deleted, Destination: to.String() + file.Name, Size: file.Size, Reason: ReasonExtra}
			if !r.o.DryRun {
				if err := to.Delete(ctx, file.Name); err != nil {
					e.Action, e.Err = Failed, err
				}
			}
			if ctx.Err() == nil || e.Err == nil {
				r.report(e)
			}
			return nil
		})
	}
	return r.end(ctx)
}

// pair is a name that either side has. err without source is of the destination, with it of the source.
type pair struct {
	source, destination *File
	err                 error
}

// merged goes through two listings at once. An error of the destination ends it: what could not be listed must not look
// as if it were not there. An error of the source leaves a gap.
func merged(ctx context.Context, from, to Side, filter Filter) iter.Seq[pair] {
	return func(yield func(pair) bool) {
		next, stop := iter.Pull2(chosen(to, to.List(ctx, ""), filter))
		defer stop()
		there, err, more := next()
		for file, sourceErr := range chosen(from, from.List(ctx, ""), filter) {
			if sourceErr != nil {
				if !yield(pair{source: &file, err: sourceErr}) {
					return
				}
				continue
			}
			for more && err == nil && there.Name < file.Name {
				extra := there
				if !yield(pair{destination: &extra}) {
					return
				}
				there, err, more = next()
			}
			if err != nil {
				yield(pair{err: err})
				return
			}
			p := pair{source: &file}
			if more && there.Name == file.Name {
				same := there
				p.destination = &same
				there, err, more = next()
			}
			if !yield(p) {
				return
			}
		}
		for ; more; there, err, more = next() {
			extra := there
			if err != nil {
				yield(pair{err: err})
				return
			}
			if !yield(pair{destination: &extra}) {
				return
			}
		}
	}
}

// chosen are the files of a listing that a filter lets pass. A listing out of order is an error: merged by it, files would
// be taken for missing.
func chosen(side Side, files iter.Seq2[File, error], filter Filter) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		last := ""
		for file, err := range files {
			switch {
			case err != nil:
			case file.Name <= last && last != "":
				yield(File{}, failure(side, "list", "", backend.Failed,
					fmt.Errorf("its listing is not sorted: %q comes after %q", file.Name, last)))
				return
			default:
				last = file.Name
				if isMarker(file) || !filter.Match(file.Name) {
					continue
				}
			}
			if !yield(file, err) {
				return
			}
		}
	}
}
