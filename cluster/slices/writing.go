package slices

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/erasure"
	"github.com/shardstream/shardstream/core/store"
)

// Bounds of a write to other targets.
const (
	writePause  = 10 * time.Second // for a target to take some of a slice
	stageTime   = 60 * time.Second // to make a slice durable that it has taken
	commitTime  = 10 * time.Second
	discardTime = 5 * time.Second
)

// Writing is an object on its way into slices. What is written to it is encoded and sent to the targets as it comes;
// Stage, Commit and Discard are as of a store's bodies.
type Writing struct {
	encoder *erasure.Encoder
	keeper  *Keeper
	need    int
	parts   []*part // by slice; nil: not made
}

// part is one slice on its way to one target.
type part struct {
	keeper *Keeper
	node   api.Node
	slice  store.Info
	stage  string
	pipe   *io.PipeWriter
	cancel context.CancelFunc
	ended  chan struct{}
	staged *store.Staged // of this target's own
	err    error
}

// Begin begins to write slices of an object: slice n to target to[n], where there is one. need is the number of slices
// without which it fails. Of the description bucket, name and code count.
func (k *Keeper) Begin(ctx context.Context, i store.Info, to []*api.Node, need int) (*Writing, error) {
	code, err := erasure.New(i.Data, i.Parity)
	if err != nil {
		return nil, err
	}
	w := &Writing{keeper: k, need: need, parts: k.sendAll(ctx, code, i, to)}
	if w.encoder, err = code.Encoder(w.writers(), need); err != nil {
		return nil, errors.Join(err, w.Discard(ctx))
	}
	return w, nil
}

// sendAll begins to send slices of an object.
func (k *Keeper) sendAll(ctx context.Context, code *erasure.Code, i store.Info, to []*api.Node) []*part {
	parts := make([]*part, code.Slices())
	for n, node := range to {
		if node == nil {
			continue
		}
		slice := store.Info{
			Bucket: i.Bucket, Name: i.Name, Kind: store.Slice, Size: -1, Data: i.Data, Parity: i.Parity, Slice: n, Created: i.Created,
		}
		if i.Size > 0 {
			slice.Size = code.SliceSize(i.Size)
		}
		parts[n] = k.send(ctx, *node, slice)
	}
	return parts
}

func (w *Writing) writers() []io.Writer {
	writers := make([]io.Writer, len(w.parts))
	for n, p := range w.parts {
		if p != nil {
			writers[n] = p
		}
	}
	return writers
}

// Write encodes p.
func (w *Writing) Write(p []byte) (int, error) { return w.encoder.Write(p) }

// send begins to send a slice.
func (k *Keeper) send(ctx context.Context, node api.Node, slice store.Info) *part {
	ctx, cancel := context.WithCancel(ctx)
	r, pipe := io.Pipe()
	p := &part{keeper: k, node: node, slice: slice, stage: rand.Text(), pipe: pipe, cancel: cancel, ended: make(chan struct{})}
	go func() { // ends with the pipe or the context
		defer close(p.ended)
		if node.ID == k.Self {
			o := store.PutOptions{Size: slice.Size, Data: slice.Data, Parity: slice.Parity, Internal: slice.Version != 0}
			p.staged, p.err = k.Store.StageSlice(ctx, slice.Bucket, slice.Name, slice.Slice, r, o)
		} else {
			p.err = k.Wire.StageSlice(ctx, node, p.stage, slice, r)
		}
		_ = r.CloseWithError(errors.Join(p.err, io.ErrClosedPipe)) // never fails
	}()
	return p
}

// Write passes some of the slice on. It fails where the target takes nothing for too long.
func (p *part) Write(b []byte) (int, error) {
	late := time.AfterFunc(writePause, func() {
		_ = p.pipe.CloseWithError(fmt.Errorf("%s took nothing for %v", p.node.ID, writePause)) // never fails
		p.cancel()
	})
	defer late.Stop()
	return p.pipe.Write(b)
}

// end says that the slice is complete, or with an error that it never will be, and waits for what becomes of it.
func (p *part) end(err error) error {
	_ = p.pipe.CloseWithError(err) // never fails
	if err != nil {
		p.cancel()
	}
	late := time.AfterFunc(stageTime, p.cancel)
	<-p.ended
	late.Stop()
	p.cancel()
	return p.err
}

// Stage ends the object, and returns once its slices are durable on their targets: as many as are needed, or an error.
func (w *Writing) Stage() error {
	return w.stage(w.encoder.Close(), w.encoder.Failed())
}

// stage ends all slices; failed says what happened to all of them, and each to each.
func (w *Writing) stage(failed error, each []error) error {
	errs := w.each(func(n int, p *part) error {
		err := errors.Join(failed, each[n])
		if ended := p.end(err); ended != nil {
			return fmt.Errorf("slice %d to %s: %w", n, p.node.ID, ended)
		}
		return err
	})
	return w.enough(errs)
}

// Commit makes the slices those of a version. Those that failed to be staged are left out.
func (w *Writing) Commit(ctx context.Context, version uint64, created time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	return w.enough(w.each(func(n int, p *part) error {
		var err error
		switch {
		case p.err != nil:
			err = p.err
		case p.staged != nil:
			_, err = p.staged.Commit(version, created, store.Condition{})
		default:
			if err = w.keeper.Wire.CommitSlice(ctx, p.node, p.stage, version, created); err == nil {
				p.stage = "" // nothing is left to be given up
			}
		}
		if p.err = err; err != nil {
			return fmt.Errorf("slice %d on %s: %w", n, p.node.ID, err)
		}
		return nil
	}))
}

// Written counts the slices that have not failed.
func (w *Writing) Written() int {
	n := 0
	for _, p := range w.parts {
		if p != nil && p.err == nil {
			n++
		}
	}
	return n
}

// Discard gives up what was staged and not committed, whatever became of the context that it began with. Targets that
// can't be reached forget it by themselves.
func (w *Writing) Discard(ctx context.Context) error {
	if w.encoder != nil {
		w.encoder.Abort()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTime)
	defer cancel()
	errs := w.each(func(_ int, p *part) error {
		_ = p.end(errDiscarded) // as it is given up, it does not matter what became of it
		if p.staged != nil {
			return p.staged.Discard()
		}
		if p.node.ID != w.keeper.Self && p.stage != "" {
			_ = w.keeper.Wire.Discard(ctx, p.node, p.stage) // as above
		}
		return nil
	})
	return errors.Join(errs...)
}

var errDiscarded = errors.New("the write was given up")

// each does something for all slices at a time.
func (w *Writing) each(f func(n int, p *part) error) []error {
	errs := make([]error, len(w.parts))
	var wg sync.WaitGroup
	for n, p := range w.parts {
		if p != nil {
			wg.Go(func() { errs[n] = f(n, p) })
		}
	}
	wg.Wait()
	return errs
}

// enough fails where fewer slices than needed went well.
func (w *Writing) enough(errs []error) error {
	good := 0
	for n, p := range w.parts {
		if p != nil && errs[n] == nil {
			good++
		}
	}
	if good >= w.need {
		return nil
	}
	return fmt.Errorf("%w: %d of %d needed: %w", erasure.ErrTooFew, good, w.need, errors.Join(errs...))
}
