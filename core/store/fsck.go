package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/archive"
)

// Finding is one fault that Fsck found.
type Finding struct {
	Disk, Bucket, Name string
	File               string // path of the data file
	Block              int64  // of the payload; -1 where no one block is at fault
	Detail             string
}

// Report is what Fsck found.
type Report struct {
	Objects                 int64 // Stubs of them are without their bytes
	Stubs                   int64
	Tombstones, Slices      int64 // which are no objects
	Corrupt, Missing, Stray []Finding
}

// Fsck reads and verifies everything and changes nothing. It may run beside other calls: what they change
// meanwhile is not a fault. Its error says that it could not do its work, not that it found something.
func (s *Store) Fsck(ctx context.Context) (Report, error) {
	if err := s.enter(); err != nil {
		return Report{}, err
	}
	defer s.leave()
	c := checker{s: s, used: map[*disk]map[fileID]struct{}{}}
	for _, k := range s.all() {
		c.used[k] = map[fileID]struct{}{}
	}
	each := func(key []byte, copies []found) error {
		if err := cancelled(ctx, "fsck"); err != nil {
			return err
		}
		return c.object(ctx, key, copies)
	}
	lower, upper := allObjects()
	err := s.scan(lower, upper, each)
	if err == nil || butForDisks(err) {
		lower, upper = allSlices()
		err = s.scan(lower, upper, each)
	}
	if butForDisks(err) {
		err = nil
	}
	for _, k := range s.all() {
		if k.isOut() {
			c.report.Missing = append(c.report.Missing, Finding{
				Disk: k.ID, File: k.Path, Block: -1, Detail: "all that only this disk has: " + k.outError().Error(),
			})
		} else if err == nil {
			err = c.strays(k)
		}
	}
	if err != nil {
		return Report{}, fmt.Errorf("fsck: %w", err)
	}
	return c.report, nil
}

type checker struct {
	s      *Store
	report Report
	used   map[*disk]map[fileID]struct{} // files that records name
}

func (c *checker) object(ctx context.Context, key []byte, copies []found) error {
	for i, one := range copies {
		if one.err != nil {
			c.report.Corrupt = append(c.report.Corrupt, Finding{
				Disk: one.disk.ID, Block: -1, Detail: fmt.Sprintf("metadata of key %q: %v", key, one.err),
			})
			continue
		}
		if one.info.Kind == Tombstone {
			if i == 0 {
				c.report.Tombstones++
			}
			continue
		}
		if !one.bare() {
			c.used[one.disk][one.file] = struct{}{}
		}
		if i > 0 {
			if c.s.current(one.copyOf) {
				c.report.Stray = append(c.report.Stray, finding(one.copyOf, "older copy of an object that another disk has"))
			}
			continue
		}
		c.count(one.info.Kind)
		if one.bare() {
			continue
		}
		if one.info.Kind == Lost {
			c.report.Missing = append(c.report.Missing, finding(one.copyOf, "the copy was damaged and is put aside"))
		}
		err := verify(ctx, one.copyOf)
		if err == nil || !c.s.current(one.copyOf) {
			continue
		}
		if cause := cancelled(ctx, "fsck"); cause != nil {
			return cause
		}
		c.add(one.copyOf, err)
	}
	return nil
}

func (c *checker) count(kind Kind) {
	if kind == Slice {
		c.report.Slices++
		return
	}
	c.report.Objects++
	if kind == Stub {
		c.report.Stubs++
	}
}

// current says whether a copy is still what its metadata say, and not overwritten or deleted since.
func (s *Store) current(one copyOf) bool {
	k := s.stripe(one.info.Bucket, one.info.Name)
	k.RLock()
	defer k.RUnlock()
	r, err := one.disk.record(recordKey(&one.info))
	return err != nil || r != nil && r.file == one.file
}

func (c *checker) add(one copyOf, err error) {
	f := finding(one, err.Error())
	var bad *CorruptError
	if errors.As(err, &bad) {
		f.Block, f.Detail = bad.Block, bad.Detail
	}
	if errors.Is(err, errMissing) {
		c.report.Missing = append(c.report.Missing, f)
	} else {
		c.report.Corrupt = append(c.report.Corrupt, f)
	}
}

func finding(one copyOf, detail string) Finding {
	f := Finding{Disk: one.disk.ID, Bucket: one.info.Bucket, Name: one.info.Name, Block: -1, Detail: detail}
	if !one.bare() {
		f.File = one.disk.path(one.file)
	}
	return f
}

func verify(ctx context.Context, one copyOf) error {
	h, err := openHandle(&one)
	if err != nil {
		return err
	}
	return h.verify(ctx, nil)
}

// verify reads a copy whole: all parts of the file, and that they agree with each other and with the metadata. It
// releases the handle.
func (h *handle) verify(ctx context.Context, pace Pace) error {
	defer func() { _ = h.release() }()
	header, err := h.footer.readHeader(h.file)
	if err != nil {
		return h.explain(err)
	}
	header.Disk = h.info.Disk
	if !reflect.DeepEqual(header, h.info) {
		return h.explain(damaged(h.footer.headerAt(), "its header and its metadata do not agree: it is of %s/%s version %d",
			header.Bucket, header.Name, header.Version))
	}
	payload := h.info.Payload()
	b, err := h.footer.readIndex(h.file)
	if err == nil && (payload > 0 || len(b) > 0) && h.info.Archive != archive.None {
		if _, bad := archive.UnmarshalIndex(b); bad != nil {
			err = damaged(h.footer.indexAt(), "its member index: %v", bad)
		}
	}
	if err != nil {
		return h.explain(err)
	}
	buf, _ := spans.Get().(*[spanSize]byte)
	defer spans.Put(buf)
	r := spanReader{h: h, buf: buf, end: payload}
	whole := xxh3.New()
	for {
		if err := cancelled(ctx, "verify"); err != nil {
			return err
		}
		if left := payload - r.at; pace != nil && left > 0 {
			if err := pace.WaitN(ctx, int(min(left, spanSize))); err != nil {
				return err
			}
		}
		ok, err := r.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		_, _ = whole.Write(r.verified)
	}
	if (h.info.Kind == Whole || h.info.Kind == Slice) && whole.Sum64() != h.info.XXH3 {
		return h.explain(damaged(0, "the payload does not match the object's checksum"))
	}
	return nil
}

// strays finds files that no record names.
func (c *checker) strays(k *disk) error {
	return k.eachFile(func(path string, id fileID, ok bool) error {
		if _, used := c.used[k][id]; used && ok && path == id.path() {
			return nil
		}
		f := Finding{Detail: "not a name that the store gives"}
		if ok {
			if k.isBusy(id) {
				return nil
			}
			f.Detail = "left by a write that did not finish"
			if path == id.path() {
				r, err := k.readRecord(id)
				if err == nil && c.s.current(copyOf{r, k}) { // put since the metadata were read
					return nil
				}
				if f.Detail = "no metadata name it"; err == nil {
					f.Bucket, f.Name = r.info.Bucket, r.info.Name
				}
			}
			// Overwritten or removed while we looked: busy until it is gone.
			if k.isBusy(id) || !k.exists(path) {
				return nil
			}
		}
		f.Disk, f.File, f.Block = k.ID, filepath.Join(k.Path, filepath.FromSlash(path)), -1
		c.report.Stray = append(c.report.Stray, f)
		return nil
	})
}

func (k *disk) exists(path string) bool {
	f, err := k.fs.OpenFile(path, os.O_RDONLY, 0)
	if err == nil {
		_ = f.Close() // nothing was done with it
	}
	return !errors.Is(err, fs.ErrNotExist)
}
