// Package slices keeps the slices of erasure-coded objects on targets: it makes them while an object comes in, makes
// the object again from them, brings them to where the cluster map puts them, and removes those that are of no use any more.
//
// What an object is (its version, size and checksums, and into how many slices it is cut) is its description, of which
// the first Parity+1 targets of its list have a copy: a stub, or on the primary the whole object as a cache. Descriptions
// are written, read and healed as mirrored objects are. Slices are named by an object's version; they are durable before
// the description of that version is, and nothing follows from a slice alone.
//
// Each of the first Data+Parity targets of the ring is to hold one slice, whichever that is (see Arrange).
package slices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/core/erasure"
	"github.com/shardstream/shardstream/core/store"
)

// Wire reaches the slices of other targets. *copies.Client is one; its methods say what is promised.
type Wire interface {
	StageSlice(ctx context.Context, node api.Node, stage string, slice store.Info, body io.Reader) error
	CommitSlice(ctx context.Context, node api.Node, stage string, version uint64, created time.Time) error
	Discard(ctx context.Context, node api.Node, stage string) error
	OpenSlice(ctx context.Context, node api.Node, key store.SliceKey, offset int64) (io.ReadCloser, error)
	HaveSlices(ctx context.Context, node api.Node, bucket string, objects []copies.ObjectVersion) ([][]int, error)
	Have(ctx context.Context, node api.Node, bucket string, names []string) ([]copies.State, error)
	Fetch(ctx context.Context, node api.Node, bucket, name string, version uint64) (store.Info, io.ReadCloser, error)
	LookAt(ctx context.Context, node api.Node, bucket string, names []string) error
}

// Config wires a Keeper. Durations may be 0 for their defaults, as may EvictAbove; Recode may be nil; all else is needed.
type Config struct {
	Self    string
	Store   *store.Store
	Wire    Wire
	State   func() heal.State // the cluster as this node sees it now
	Deletes *heal.Deletes
	Logger  *slog.Logger
	// Recode gives an object of this target's the form that its bucket has now: slices, or whole copies. It returns an error
	// where that has to be tried again.
	Recode func(ctx context.Context, b api.Bucket, i store.Info) error

	DeleteGrace time.Duration // between the two proofs that a slice may go
	StrayGrace  time.Duration // for slices that no description names
	EvictAbove  float64       // part of a disk from which on whole copies of what there are slices of are evicted
}

// Defaults of a Config.
const (
	DefaultStrayGrace = time.Hour
	DefaultEvictAbove = 0.85
)

// Keeper keeps the slices of one target, and those of the objects that are its to answer for. It is safe for
// concurrent use.
type Keeper struct {
	Config
	rebuilds flights
	hints    hints
	proofs   proofs
	touched  touched

	fruitless map[string]time.Time // when there was last nothing to evict, by disk; Run's
}

// New makes a Keeper.
func New(c Config) *Keeper {
	c.DeleteGrace = cmp.Or(c.DeleteGrace, heal.DefaultDeleteGrace)
	c.StrayGrace = cmp.Or(c.StrayGrace, DefaultStrayGrace)
	c.EvictAbove = cmp.Or(c.EvictAbove, DefaultEvictAbove)
	return &Keeper{Config: c, fruitless: map[string]time.Time{}}
}

func (k *Keeper) placer() *api.Placer { return k.State().Placer }

// List is which targets are to hold the slices of an object, as many as there are.
func List(p *api.Placer, bucket, name string, total int) []api.Node {
	var list []api.Node
	for _, id := range p.Layout().List(placement.Key(bucket, name), max(total, 2)) {
		if n, ok := p.Node(id); ok {
			list = append(list, n)
		}
	}
	return list
}

func ids(nodes []api.Node) []string {
	out := make([]string, len(nodes))
	for i, n := range nodes {
		out[i] = n.ID
	}
	return out
}

// Holders is who has which slices of one version of an object.
type Holders struct {
	Held   map[string][]int // of those who have answered
	Failed map[string]error // who have not
}

// Find asks targets which slices they have of a version.
func (k *Keeper) Find(ctx context.Context, nodes []api.Node, bucket, name string, version uint64) Holders {
	h := Holders{Held: map[string][]int{}, Failed: map[string]error{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			own, err := k.have(ctx, n, bucket, name, version)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				h.Failed[n.ID] = err
			} else {
				h.Held[n.ID] = own
			}
		})
	}
	wg.Wait()
	return h
}

func (k *Keeper) have(ctx context.Context, n api.Node, bucket, name string, version uint64) ([]int, error) {
	object := copies.ObjectVersion{Name: name, Version: version}
	if n.ID == k.Self {
		return k.Own(bucket, object)
	}
	if n.Away || n.State != api.StateOK {
		return nil, down(n)
	}
	answer, err := k.Wire.HaveSlices(ctx, n, bucket, []copies.ObjectVersion{object})
	if err != nil {
		return nil, err
	}
	return answer[0], nil
}

func down(n api.Node) error { return fmt.Errorf("target %s is down", n.ID) }

// Own is which slices of a version are on this target.
func (k *Keeper) Own(bucket string, object copies.ObjectVersion) ([]int, error) {
	infos, err := k.Store.HaveSlices(bucket, object.Name, object.Version)
	if err != nil && !errors.Is(err, store.ErrDiskFailed) { // what a disk out of use has is as good as lost
		return nil, err
	}
	own := make([]int, len(infos))
	for i := range infos {
		own[i] = infos[i].Slice
	}
	return own, nil
}

// err is why some have not answered, nil where all have.
func (h *Holders) err() error {
	var errs []error
	for _, err := range h.Failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// count is how many different slices there are.
func (h *Holders) count() int {
	var seen []int
	for _, own := range h.Held {
		for _, slice := range own {
			if !slices.Contains(seen, slice) {
				seen = append(seen, slice)
			}
		}
	}
	return len(seen)
}

// who lists the targets that hold a slice, this one first.
func (h *Holders) who(self string, slice int) []string {
	var out []string
	for id, own := range h.Held {
		if slices.Contains(own, slice) {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		switch {
		case a == self:
			return -1
		case b == self:
			return 1
		case a < b:
			return -1
		}
		return 1
	})
	return out
}

// source reads slices of a version where they are.
func (k *Keeper) source(p *api.Placer, i *store.Info, h Holders) erasure.Source {
	open := func(ctx context.Context, slice int, offset int64) (erasure.Reader, error) {
		key := store.SliceKey{Bucket: i.Bucket, Name: i.Name, Version: i.Version, Slice: slice}
		var errs []error
		for _, id := range h.who(k.Self, slice) {
			r, err := k.open(ctx, p, id, key, offset)
			if err == nil {
				return r, nil
			}
			errs = append(errs, err)
		}
		return nil, errors.Join(errs...)
	}
	return erasure.Source{Open: open, Order: sources(k.Self, i.Data, i.Data+i.Parity, h.Held)}
}

func (k *Keeper) open(ctx context.Context, p *api.Placer, id string, key store.SliceKey, offset int64) (erasure.Reader, error) {
	if id == k.Self {
		object, err := k.Store.OpenSlice(key)
		if err != nil {
			return nil, err
		}
		return &localSlice{keeper: k, key: key, object: object, at: offset}, nil
	}
	n, ok := p.Node(id)
	if !ok {
		return nil, fmt.Errorf("%s is no member any more", id)
	}
	body, err := k.Wire.OpenSlice(ctx, n, key, offset)
	if err != nil {
		return nil, err
	}
	return erasure.NewReader(&patient{ReadCloser: body}), nil
}

// localSlice reads a slice of this target, verified. One that is damaged is put aside: heal makes it anew.
type localSlice struct {
	keeper *Keeper
	key    store.SliceKey
	object *store.Object
	at     int64
	buf    []byte
}

func (s *localSlice) Next(n int) ([]byte, error) {
	if cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	p := s.buf[:n]
	m, err := s.object.ReadAt(p, s.at)
	if m == n {
		s.at += int64(n)
		return p, nil
	}
	if errors.Is(err, io.EOF) || err == nil {
		err = io.ErrUnexpectedEOF
	}
	s.keeper.Damaged(s.key, err)
	return nil, err
}

func (s *localSlice) Close() error { return s.object.Close() }

// Damaged puts a slice of this target aside that a read has found damaged, and does nothing about other errors.
func (k *Keeper) Damaged(key store.SliceKey, err error) {
	var corrupt *store.CorruptError
	if !errors.As(err, &corrupt) {
		return
	}
	k.Logger.Error("a slice is damaged and is put aside", "slice", key.String(), "error", err)
	if err := k.Store.QuarantineSlice(context.Background(), key); err != nil {
		k.Logger.Error("a damaged slice could not be put aside", "slice", key.String(), "error", err)
		return
	}
	k.Mend(key.Bucket, key.Name)
}
