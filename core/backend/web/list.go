package web

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"

	"github.com/shardstream/shardstream/core/backend"
)

// statsAhead is how many objects of a listing are asked about at a time: an index does not say what they are exactly.
const statsAhead = 16

// List implements backend.Backend. What an index page says of a file, its tag least of all, is not enough: each is asked
// for, several at a time.
func (w *Web) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		queue := make([]chan described, 0, statsAhead)
		defer func() { // nobody is left behind
			cancel()
			for _, q := range queue {
				<-q
			}
		}()
		deliver := func() (more bool) {
			d := <-queue[0]
			queue = queue[1:]
			switch {
			case d.err == nil:
				return yield(d.entry, nil)
			case !d.sure && isWithheld(d.err):
				return yield(backend.Entry{Name: d.name, Size: -1}, nil)
			case backend.KindOf(d.err) != backend.NotFound:
				yield(backend.Entry{}, undescribed(d.name, d.err))
				return false
			case d.sure:
				e := w.fail("list", d.name, backend.Failed, errors.New("it is named, but not there"))
				yield(backend.Entry{}, e)
				return false
			}
			return true // removed since the page was made
		}
		for f, err := range w.names.list(ctx, prefix, after) {
			if err != nil {
				for len(queue) > 0 {
					if !deliver() {
						return
					}
				}
				yield(backend.Entry{}, err)
				return
			}
			if len(queue) == statsAhead && !deliver() {
				return
			}
			queue = append(queue, w.describe(ctx, f))
		}
		for len(queue) > 0 && deliver() {
		}
	}
}

// isWithheld says that the server refuses this very file for good: an index page lists what its reader may not read, too.
// Such a file is in the listing, undescribed: all others can be used, and whoever uses this one hears why it can't be.
func isWithheld(err error) bool {
	var failed *backend.Error
	if !errors.As(err, &failed) || failed.Kind != backend.Denied && failed.Kind != backend.Failed {
		return false
	}
	ours := failed.Status == http.StatusUnauthorized || failed.Status == http.StatusProxyAuthRequired // about the credentials
	return failed.Status/100 == 4 && !ours
}

// undescribed says what to do about a file that keeps a listing from being complete.
func undescribed(name string, err error) error {
	var failed *backend.Error
	if !errors.As(err, &failed) || failed.Status == 0 { // the server said nothing about it
		return err
	}
	told := *failed
	told.Op, told.Name = "list", name
	why := errors.New("the listing is not complete without this file; have the server answer for it, or name the files that are wanted by a manifest or a template")
	if told.Err != nil {
		why = fmt.Errorf("%w; %w", told.Err, why)
	}
	told.Err = why
	return &told
}

// described is a file with what the server says of it.
type described struct {
	file
	entry backend.Entry
	err   error
}

func (w *Web) describe(ctx context.Context, f file) chan described {
	done := make(chan described, 1) // so that nobody need take it
	if f.guess.Tag != "" {
		done <- described{file: f, entry: f.guess}
		return done
	}
	go func() {
		e, err := w.stat(ctx, f.name, f.at)
		done <- described{f, e, err}
	}()
	return done
}
