package heal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/core/store"
)

// proofAge is how old the answers may be by which something is deleted.
const proofAge = 10 * time.Second

// ErrNoProof is returned where something was to be deleted without proof that it is safe elsewhere.
var ErrNoProof = errors.New("there is no proof that the copy can go")

// Deletion is a copy (or a tombstone) that a target wants to be rid of, and why it may.
type Deletion struct {
	Info   store.Info
	Reason string
	// Keepers are those that are to have the object. Each must be in Proof, with the copy's version or a newer one.
	Keepers []string
	Proof   map[string]uint64 // versions, by node, as they answered
	Asked   time.Time         // before the first of the answers was given
	Map     int64             // version of the map that they were given under

	// The rest is of slices. Slices is who has which slice of the version, Whole who has a whole copy that is none of
	// slices, and Stray, where it is not 0, the age before which a slice of a version that nobody knows is to be kept.
	Slices []string
	Whole  []string
	Stray  time.Duration
}

// Deletes is the one way by which targets remove copies of their own accord. It is handed the proof, checks it, and
// writes it to the audit log before anything is gone.
type Deletes struct {
	Drop      func(ctx context.Context, bucket, name string, version uint64) error
	DropSlice func(ctx context.Context, key store.SliceKey) error
	Log       *audit.Log
	// Leased says that this node has not been stopped, or cut off, since the proof was given: see membership.
	Leased func() bool
	// Gate and Version make sure that the map is still the one that the proof was given by, while something is deleted.
	// Version is of the newest map that this node knows to exist.
	Gate    *Gate
	Version func() int64
	Now     func() time.Time // nil: time.Now
}

// Do deletes what has its proof, and says how much that is. The first that has none is an error; those before it are gone.
func (d *Deletes) Do(ctx context.Context, self string, list []Deletion) (int, error) {
	entries := make([]audit.Entry, len(list))
	for i := range list {
		if err := list[i].check(self, d.now()); err != nil {
			return 0, err
		}
		entries[i] = list[i].entry()
	}
	if err := d.Log.Record(entries...); err != nil {
		return 0, err
	}
	for i := range list {
		if err := d.one(ctx, &list[i]); err != nil {
			return i, err
		}
	}
	return len(list), nil
}

// one deletes, if the proof still counts.
func (d *Deletes) one(ctx context.Context, l *Deletion) error {
	version, leave := d.Gate.Enter(d.Version)
	defer leave()
	if version != l.Map || !d.Leased() || d.now().Sub(l.Asked) > proofAge {
		return fmt.Errorf("drop %s: the answers were given %v ago under version %d of the map, which is at %d; or this node's lease is over: %w",
			api.Address(l.Info.Bucket, l.Info.Name), d.now().Sub(l.Asked).Round(time.Millisecond), l.Map, version, ErrNoProof)
	}
	if l.Info.Kind == store.Slice {
		return d.DropSlice(ctx, store.SliceKey{Bucket: l.Info.Bucket, Name: l.Info.Name, Version: l.Info.Version, Slice: l.Info.Slice})
	}
	return d.Drop(ctx, l.Info.Bucket, l.Info.Name, l.Info.Version)
}

func (d *Deletes) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}

func (l *Deletion) check(self string, now time.Time) error {
	fault := func(format string, args ...any) error {
		return fmt.Errorf("drop %s: %s: %w", api.Address(l.Info.Bucket, l.Info.Name), fmt.Sprintf(format, args...), ErrNoProof)
	}
	grave := l.Info.Kind == store.Tombstone
	if len(l.Keepers) == 0 {
		return fault("nobody is to keep it")
	}
	if now.Sub(l.Asked) > proofAge {
		return fault("the answers are %v old", now.Sub(l.Asked).Round(time.Second))
	}
	if l.Info.Kind == store.Slice {
		return l.checkSlice(self, now, fault)
	}
	if !grave && slices.Contains(l.Keepers, self) {
		return fault("%s is to keep it itself", self)
	}
	for _, id := range l.Keepers {
		version, answered := l.Proof[id]
		switch {
		case id == self:
		case !answered:
			return fault("%s has not confirmed that it has it", id)
		case version < l.Info.Version && !(grave && version == 0 && slices.Contains(l.Keepers, self)):
			return fault("%s has version %d of it, not %d", id, version, l.Info.Version)
		}
	}
	return nil
}

func (l *Deletion) entry() audit.Entry {
	e := audit.Entry{
		Action: audit.DropCopy, Reason: l.Reason, Object: api.Address(l.Info.Bucket, l.Info.Name), Version: l.Info.Version,
		Size: l.Info.Payload(), Map: l.Map, Proof: l.Proof,
	}
	switch l.Info.Kind {
	case store.Tombstone:
		e.Action = audit.DropTombstone
	case store.Slice:
		e.Action = audit.DropSlice
	}
	return e
}
