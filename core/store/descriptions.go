package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// A stub without a member index, of an object that has an origin, is in the index only, as tombstones are: where the
// index is lost, the object is described anew. So thousands of objects are described with one synced write.

// noFile is the file of a record that has none.
var noFile fileID

// bare says that there is a record and no data file.
func (r *record) bare() bool { return r.info.Kind == Tombstone || r.file == noFile }

// PutStubs is PutStub for many objects of an origin, none of them twice, that are described without a member index. It
// returns what was put and, in the same order, what failed.
func (s *Store) PutStubs(ctx context.Context, infos []Info) (put []Info, failed []error) {
	put, failed = make([]Info, len(infos)), make([]error, len(infos))
	err := s.enter()
	if err == nil {
		defer s.leave()
	}
	for from := 0; from < len(infos); from += defaultPage {
		to := min(from+defaultPage, len(infos))
		if err == nil {
			err = cancelled(ctx, "describe objects")
		}
		if err != nil {
			for n := from; n < to; n++ {
				failed[n] = err
			}
			continue
		}
		b := stubBatch{s: s, records: map[*disk][]stubToPut{}, seen: map[objectKey]struct{}{}, put: put[from:to], failed: failed[from:to]}
		b.write(infos[from:to])
	}
	return put, failed
}

// stubBatch is a number of stubs that are put at once.
type stubBatch struct {
	s       *Store
	records map[*disk][]stubToPut
	seen    map[objectKey]struct{}
	put     []Info
	failed  []error
	gone    []copyOf // whose files are to be removed
}

// stubToPut is a stub that may be put, and the copies that it replaces.
type stubToPut struct {
	n      int
	key    []byte
	record record
	old    []copyOf
}

func (b *stubBatch) write(infos []Info) {
	unlock := b.s.lockStripes(infos)
	for n := range infos {
		b.put[n], b.failed[n] = b.prepare(n, infos[n])
	}
	for k, stubs := range b.records {
		b.commit(k, stubs)
	}
	unlock()
	b.s.unlink(b.gone)
}

// prepare finds a disk for a stub and makes sure that it may be put.
func (b *stubBatch) prepare(n int, i Info) (Info, error) {
	s := b.s
	given, key := i.Version, objectKey{i.Bucket, i.Name}
	if _, twice := b.seen[key]; twice || !i.hasOrigin() {
		return Info{}, fmt.Errorf("object %s/%s: only what has an origin is described with others at once, and once", i.Bucket, i.Name)
	}
	b.seen[key] = struct{}{}
	w, err := s.newStubWriter(i, nil)
	if err != nil {
		return Info{}, err
	}
	defer w.disk.done(w.id)
	w.given, w.info.Created = given, i.Created.UTC().Round(0)
	if err := w.finish(s); err != nil {
		return Info{}, err
	}
	copies, err := s.allows(w, Condition{}, s.stripe(i.Bucket, i.Name))
	if err != nil {
		return Info{}, fmt.Errorf("put %s/%s: %w", i.Bucket, i.Name, err)
	}
	stub := stubToPut{n: n, key: recordKey(&w.info), record: record{info: w.info}, old: copies}
	b.records[w.disk] = append(b.records[w.disk], stub)
	return w.info, nil
}

// commit has the index of a disk name stubs in place of what was there.
func (b *stubBatch) commit(k *disk, stubs []stubToPut) {
	s := b.s
	for _, one := range stubs {
		s.cache.drop(objectKey{one.record.info.Bucket, one.record.info.Name})
		for _, old := range one.old {
			old.disk.begin(old.file)
		}
	}
	err := k.setRecords(stubs)
	for _, one := range stubs {
		if err != nil {
			b.put[one.n], b.failed[one.n] = Info{}, fmt.Errorf("put %s/%s: %w", one.record.info.Bucket, one.record.info.Name, err)
			for _, old := range one.old {
				old.disk.done(old.file)
			}
			continue
		}
		i := &one.record.info
		stripe := s.stripe(i.Bucket, i.Name)
		stripe.last = max(stripe.last, i.Version)
		s.see(i.Version)
		b.gone = append(b.gone, s.dropReplaced(one.key, k, one.old)...)
	}
	if err == nil {
		atDescribed.Hit()
	}
}

// setRecords sets many records with one synced write.
func (k *disk) setRecords(stubs []stubToPut) error {
	return k.guard(func(db *pebble.DB) error {
		b := db.NewBatch()
		for n := range stubs {
			if err := b.Set(stubs[n].key, stubs[n].record.encode(), nil); err != nil {
				return errors.Join(err, b.Close())
			}
		}
		return b.Commit(pebble.Sync)
	})
}

// lockStripes locks the stripes of many objects. Others hold one stripe at a time, and we take ours in order: nobody
// waits in a circle.
func (s *Store) lockStripes(infos []Info) (unlock func()) {
	numbers := map[int]struct{}{}
	for i := range infos {
		numbers[s.stripeNumber(infos[i].Bucket, infos[i].Name)] = struct{}{}
	}
	inOrder := slices.Sorted(maps.Keys(numbers))
	for _, n := range inOrder {
		s.keys[n].Lock()
	}
	return func() {
		for _, n := range inOrder {
			s.keys[n].Unlock()
		}
	}
}
