package slices

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/erasure"
	"github.com/shardstream/shardstream/core/store"
)

// readPause is how long another target may take to send some of a slice.
const readPause = 10 * time.Second

// patient ends a body that brings nothing for too long.
type patient struct{ io.ReadCloser }

func (p *patient) Read(b []byte) (int, error) {
	late := time.AfterFunc(readPause, func() { _ = p.ReadCloser.Close() })
	n, err := p.ReadCloser.Read(b)
	if !late.Stop() && err != nil {
		err = fmt.Errorf("nothing came for %v: %w", readPause, err)
	}
	return n, err
}

// flights lets one work on an object for all who want the same.
type flights struct {
	mu     sync.Mutex
	byID   map[store.SliceKey]*flight
	closed bool
	ctx    context.Context //nolint:containedctx // of all of them: it ends with close
	cancel context.CancelCauseFunc
	work   sync.WaitGroup
}

var errStopping = errors.New("this target is stopping")

type flight struct {
	done chan struct{}
	err  error
}

// do runs work once for all who ask for the same at a time. Work does not end with the context of who asked first.
func (f *flights) do(ctx context.Context, key store.SliceKey, work func(context.Context) error) error {
	f.mu.Lock()
	one, running := f.byID[key]
	switch {
	case running:
	case f.closed:
		f.mu.Unlock()
		return errStopping
	default:
		one = &flight{done: make(chan struct{})}
		if f.byID == nil {
			f.byID = map[store.SliceKey]*flight{}
			f.ctx, f.cancel = context.WithCancelCause(context.Background())
		}
		f.byID[key] = one
		f.work.Go(func() { // ends with the work, or with close
			ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
			defer cancel(nil)
			defer context.AfterFunc(f.ctx, func() { cancel(errStopping) })() //nolint:contextcheck // work outlives who asked, not the target
			one.err = work(ctx)
			f.mu.Lock()
			delete(f.byID, key)
			f.mu.Unlock()
			close(one.done)
		})
	}
	f.mu.Unlock()
	select {
	case <-one.done:
		return one.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// close gives up what is under way, and returns when all of it has ended. Nothing begins any more.
func (f *flights) close() {
	f.mu.Lock()
	f.closed = true
	if f.cancel != nil {
		f.cancel(errStopping)
	}
	f.mu.Unlock()
	f.work.Wait()
}

// Close gives up what is being made whole. Call it when no requests come any more, while the store is still open: an
// object may be large, and a target that is to stop does not wait for it.
func (k *Keeper) Close() { k.rebuilds.close() }

// Rebuild makes an object whole on this target, of which it has a stub of that description, and keeps it so: a cache,
// which Evict takes away again. However many ask, it is made once.
func (k *Keeper) Rebuild(ctx context.Context, i store.Info) error {
	key := store.SliceKey{Bucket: i.Bucket, Name: i.Name, Version: i.Version}
	return k.rebuilds.do(ctx, key, func(ctx context.Context) error {
		if now, err := k.Store.Stat(i.Bucket, i.Name); err != nil || now.Kind != store.Stub || now.Version != i.Version {
			return err // made meanwhile, or overwritten
		}
		err := k.keep(ctx, i)
		var full *store.NoSpaceError
		if errors.As(err, &full) {
			if _, made := k.makeRoom(ctx, i.Size); made == nil {
				err = k.keep(ctx, i)
			}
		}
		return err
	})
}

// keep stages the object as it is made from its slices. The store checks it against the description's checksums.
func (k *Keeper) keep(ctx context.Context, i store.Info) error {
	r, w := io.Pipe()
	made := make(chan error, 1)
	go func() { // ends with the pipe
		err := k.Read(ctx, i, w)
		_ = w.CloseWithError(err) // nil is the end of the body; never fails
		made <- err
	}()
	o := i.PutOptions()
	o.Version = 0
	staged, err := k.Store.Stage(ctx, i.Bucket, i.Name, r, o)
	_ = r.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // never fails
	if failed := <-made; failed != nil && !errors.Is(failed, io.ErrClosedPipe) {
		return errors.Join(failed, discard(staged))
	}
	if err != nil {
		return err
	}
	if _, err = staged.Commit(i.Version, i.Created, store.Condition{}); errors.Is(err, store.ErrSuperseded) {
		return nil // by whoever was faster
	}
	return err
}

func discard(g *store.Staged) error {
	if g == nil {
		return nil
	}
	return g.Discard()
}

// Read makes an object from its slices and writes it to w. What is written is verified block by block where the slices
// are, and is to be checked as a whole by whoever takes it.
func (k *Keeper) Read(ctx context.Context, i store.Info, w io.Writer) error {
	code, err := erasure.New(i.Data, i.Parity)
	if err != nil {
		return err
	}
	p := k.placer()
	h := k.Find(ctx, List(p, i.Bucket, i.Name, code.Slices()), i.Bucket, i.Name, i.Version)
	if h.count() < code.Data() { // a change of the map is under way: they may be anywhere
		h = k.Find(ctx, p.Map.Targets(), i.Bucket, i.Name, i.Version)
	}
	if found := h.count(); found < code.Data() {
		return k.tooFew(&i, found, h.err())
	}
	err = code.Decode(ctx, i.Size, k.source(p, &i, h), w, nil)
	if errors.Is(err, erasure.ErrTooFew) {
		return k.tooFew(&i, 0, err)
	}
	return err
}

// tooFew is the error for an object that can't be made now. Where all targets have answered, it is lost.
func (k *Keeper) tooFew(i *store.Info, found int, err error) error {
	address := api.Address(i.Bucket, i.Name)
	if err == nil {
		return api.Errorf(http.StatusInternalServerError, api.CodeCorrupt,
			"%s is in %d slices, of which %d are left and %d are needed; put it again from a good copy", address, i.Data+i.Parity, found, i.Data)
	}
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
		"%s needs %d of its %d slices, and not as many can be read now: %v", address, i.Data, i.Data+i.Parity, err)
}
