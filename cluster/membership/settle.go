package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/shardstream/shardstream/cluster/api"
)

// Settle says of a version of the map that all objects are where it puts them, in as many copies as their buckets have
// now: no earlier set of targets and no earlier setting of a bucket has to be thought of any more, and no target is bare.
// Those that were drained by then may be removed. ErrMapChanged where the map is of another version by now: what was
// found out about it says nothing of that.
func (m *Membership) Settle(ctx context.Context, version int64, drained ...string) error {
	return m.change(ctx, func(d document) (proposal, error) {
		if d.current.Version != version {
			return proposal{}, fmt.Errorf("settle version %d of the map, which is at %d: %w", version, d.current.Version, ErrMapChanged)
		}
		p := proposal{next: settle(d.current, drained)}
		err := m.forgetSettings(ctx, &p)
		return p, err
	})
}

// maxSettled bounds the buckets that one settling forgets the earlier settings of, as etcd bounds transactions. The next
// one forgets those of more.
const maxSettled = 50

// forgetSettings adds to a proposal that buckets forget their earlier numbers of copies. What is settled was so for the
// settings at that version of the map, which each change of one raises.
func (m *Membership) forgetSettings(ctx context.Context, p *proposal) error {
	entries, err := m.KV("buckets").List(ctx)
	if err != nil {
		return err
	}
	settled := 0
	for _, e := range entries {
		var b Bucket
		if err := json.Unmarshal(e.Value, &b); err != nil || len(b.Was) == 0 || settled == maxSettled {
			continue
		}
		settled++
		b.Was = nil
		key := root + "buckets/" + e.Name
		p.ifs = append(p.ifs, clientv3.Compare(clientv3.ModRevision(key), "=", e.Revision))
		p.writes = append(p.writes, clientv3.OpPut(key, mustJSON(b)))
	}
	return nil
}

// ChangeBucket changes a bucket's properties and waits until this node sees it. Where they say of other numbers of
// copies, the map's version rises with them, in the same transaction: all who go by one version place its objects
// alike. That is refused with ErrUnsettled while objects are not where they belong yet, as it would have to be known of
// each for how many copies it was written.
func (m *Membership) ChangeBucket(ctx context.Context, name string, edit func(*api.Bucket) error) (api.Bucket, error) {
	var changed Bucket
	err := m.change(ctx, func(d document) (proposal, error) {
		before, revision, err := m.storedBucket(ctx, name)
		if err != nil {
			return proposal{}, err
		}
		changed = before
		changed.Was = slices.Clone(before.Was)
		if err := edit(&changed.Bucket); err != nil {
			return proposal{}, err
		}
		p := proposal{next: edited(d.current), always: true}
		if redundancyOf(before.Bucket) != redundancyOf(changed.Bucket) {
			if err := checkSettled(d.current, before); err != nil {
				return proposal{}, fmt.Errorf("bucket %s: %w", name, err)
			}
			p.next.Version++
			changed.Was = append(changed.Was, before.Copies())
		}
		key := root + "buckets/" + name
		p.ifs = append(p.ifs, clientv3.Compare(clientv3.ModRevision(key), "=", revision))
		p.writes = append(p.writes, clientv3.OpPut(key, mustJSON(changed)))
		return p, nil
	})
	return changed.Bucket, err
}

// storedBucket reads a bucket as it is now, with its revision.
func (m *Membership) storedBucket(ctx context.Context, name string) (Bucket, int64, error) {
	entry, err := m.KV("buckets").Get(ctx, name)
	if errors.Is(err, ErrNoEntry) {
		return Bucket{}, 0, fmt.Errorf("bucket %s: %w", name, ErrNoBucket)
	}
	if err != nil {
		return Bucket{}, 0, err
	}
	var b Bucket
	if err := json.Unmarshal(entry.Value, &b); err != nil {
		return b, 0, fmt.Errorf("bucket %s: its entry does not parse: %w", name, err)
	}
	if b.Deleting {
		return b, 0, fmt.Errorf("bucket %s: %w", name, ErrNoBucket)
	}
	return b, entry.Revision, nil
}

// redundancy is what decides where a bucket's objects are, and in which form.
type redundancy struct {
	copies int
	ec     api.EC
}

func redundancyOf(b api.Bucket) redundancy {
	r := redundancy{copies: b.Copies()}
	if b.EC != nil {
		r.ec = *b.EC
	}
	return r
}

// checkSettled says why a bucket's redundancy can't be changed now.
func checkSettled(m api.Map, b Bucket) error {
	switch {
	case len(m.Former) > 0 || len(b.Was) > 0:
		return fmt.Errorf("%w: `shardstream status` tells how far that is", ErrUnsettled)
	case slices.ContainsFunc(m.Nodes, func(n api.Node) bool { return n.Bare }):
		return fmt.Errorf("%w: a target has lost data", ErrUnsettled)
	case slices.ContainsFunc(m.Nodes, func(n api.Node) bool { return n.Away }):
		return fmt.Errorf("%w: a target is away", ErrUnsettled)
	}
	return nil
}
