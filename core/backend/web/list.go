package web

import (
	"context"
	"errors"
	"iter"

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
			case backend.KindOf(d.err) != backend.NotFound:
				yield(backend.Entry{}, d.err)
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
