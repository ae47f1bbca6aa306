package store

import (
	"math/rand/v2"

	"github.com/cockroachdb/pebble/v2"
)

// FailDisk has a disk's metadata engine fail for good, as it does when a write of its log fails.
func FailDisk(s *Store, id string) {
	for _, k := range s.all() {
		if k.ID == id {
			_ = k.guard(func(*pebble.DB) error {
				engineLog{s.log, k}.Fatalf("write of the log failed")
				return nil
			})
		}
	}
}

// Index has the metadata name objects, spread over the disks, that have no data files: in no order, as if they were put
// one after the other.
func Index(s *Store, infos []Info) error {
	const batch = 100
	order := rand.New(rand.NewPCG(1, 2)).Perm(len(infos))
	for n, k := range s.all() {
		var b *pebble.Batch
		for at := n; at < len(order); at += len(s.all()) {
			if b == nil {
				b = k.meta.db.NewBatch()
			}
			i := infos[order[at]]
			r := record{file: fileID{byte(at), byte(at >> 8), byte(at >> 16), 1}, seal: uint64(at), info: i}
			if err := b.Set(metaKey(i.Bucket, i.Name), r.encode(), nil); err != nil {
				return err
			}
			if b.Count() < batch && at+len(s.all()) < len(order) {
				continue
			}
			if err := b.Commit(pebble.NoSync); err != nil {
				return err
			}
			b = nil
		}
	}
	return nil
}

// DecodeRecord reads a record as it stands in the metadata; Encode writes one.
func DecodeRecord(data []byte) (Info, error) {
	r, err := decodeRecord(data)
	if err != nil {
		return Info{}, err
	}
	return r.info, nil
}

func EncodeRecord(i Info) []byte {
	r := record{file: fileID{1}, seal: 2, info: i}
	return r.encode()
}

// ReadDataFile reads all but the payload of a data file.
func ReadDataFile(f File) (Info, error) {
	ft, err := readFooter(f)
	if err != nil {
		return Info{}, err
	}
	if _, err := ft.readSums(f); err != nil {
		return Info{}, err
	}
	if _, err := ft.readIndex(f); err != nil {
		return Info{}, err
	}
	return ft.readHeader(f)
}

// FlushMeta has a disk's metadata engine write out what it has in memory, as it does by itself now and then.
func FlushMeta(s *Store, id string) error {
	k, err := s.disk(id)
	if err != nil {
		return err
	}
	return k.guard(func(db *pebble.DB) error { return db.Flush() })
}

// RoomOf is what is kept free on a disk of that capacity: from users' objects, and from all.
func RoomOf(capacity int64) (users, cluster int64) {
	r := roomOf(capacity)
	return r.kept(forUsers), r.kept(forCluster)
}
