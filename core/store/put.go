package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/archive"
)

// PutOptions describe an object that is put.
type PutOptions struct {
	Size        int64 // of the body; -1 if not known
	ContentType string
	Meta        map[string]string
	XXH3        *uint64 // expected checksums of the body
	CRC32       *uint32
	Archive     archive.Format
	Condition   Condition

	// Version and Created are those of the write that the copy is of; 0: it is a write of its own.
	Version uint64
	Created time.Time
	// Data and Parity mark the copy as a whole one, or a slice, of an erasure-coded object.
	Data, Parity int

	// Admit is asked when the body is here and before the object is committed, by Put alone; leave is called after.
	// nil: every object is admitted.
	Admit func() (leave func(), err error)

	// Follow is given the payload before the first byte of it is written, for others to read while it grows; nil: nobody
	// does.
	Follow func(*Growing)
	// Lenient puts keep an archive that can't be indexed as opaque bytes, and say why in Meta[UnindexedMark].
	Lenient bool

	// Internal puts may take room that is kept from users' objects: for copies that are made to heal or move data, and
	// outputs of transformations.
	Internal bool
}

// Put stores the body as a new version of the object. When it returns without an error, the object is on disk
// and is what the next reader sees; otherwise nothing has changed and nothing is left behind. It reads
// body to its end, in pieces, and keeps none of it.
func (s *Store) Put(ctx context.Context, bucket, name string, body io.Reader, o PutOptions) (Info, error) {
	if err := o.check(bucket, name); err != nil {
		return Info{}, err
	}
	if err := s.enter(); err != nil {
		return Info{}, err
	}
	defer s.leave()
	if err := s.precheck(bucket, name, o.Condition); err != nil {
		return Info{}, err
	}
	w, err := s.newWriter(bucket, name, o)
	if err != nil {
		return Info{}, err
	}
	k := w.disk
	defer k.done(w.id)
	err = w.write(ctx, body, o)
	if err == nil && o.Admit != nil {
		var leave func()
		if leave, err = o.Admit(); err == nil {
			defer leave()
		}
	}
	if err == nil {
		err = w.finish(s)
	}
	if err == nil {
		err = s.commit(w, o.Condition)
	}
	if err != nil {
		return Info{}, fmt.Errorf("put %s/%s: %w", bucket, name, w.giveUp(err))
	}
	w.settle(nil)
	return w.info, nil
}

func (o *PutOptions) check(bucket, name string) error {
	if err := checkNames(bucket, name); err != nil {
		return err
	}
	if o.Size < -1 {
		return fmt.Errorf("object %s/%s: size %d", bucket, name, o.Size)
	}
	if o.Data < 0 || o.Data > maxSlices || o.Parity < 0 || o.Parity > maxSlices {
		return fmt.Errorf("object %s/%s: %d+%d slices: there are at most %d of each", bucket, name, o.Data, o.Parity, maxSlices)
	}
	if o.Archive != archive.None && o.Archive != archive.Tar {
		return fmt.Errorf("object %s/%s: archives of format %q can't be indexed", bucket, name, o.Archive)
	}
	return nil
}

// precheck spares a body that the commit would refuse anyway.
func (s *Store) precheck(bucket, name string, c Condition) error {
	if c == (Condition{}) {
		return nil
	}
	copies, err := s.copies(bucket, name)
	if err != nil {
		return err
	}
	return check(c, bucket, name, copies)
}

func check(c Condition, bucket, name string, copies []copyOf) error {
	var present *record
	if len(copies) > 0 && copies[0].info.Kind != Tombstone {
		present = copies[0].record
	}
	if !c.holds(present) {
		return fmt.Errorf("object %s/%s: %w", bucket, name, ErrPrecondition)
	}
	return nil
}

// writer writes one data file.
type writer struct {
	disk *disk
	id   fileID
	path string // where the file is now; "" where there is none
	file File
	info Info
	// given is the version of the write that the copy is of; 0 where it gets one of its own.
	given   uint64
	purpose purpose
	// replaces: a copy of that very version, whatever it holds, may be there, and gives way; damaged: it is put aside.
	replaces, damaged bool

	whole   *xxh3.Hasher
	crc     uint32
	sums    []byte // block checksums as they are stored
	index   []byte
	indexer *archive.Indexer
	lenient bool
	bare    bool     // a stub that has no file
	growing *Growing // nil: nobody follows the write
	seal    uint64
}

// newWriter picks a disk. The file's id is busy there until it is done.
func (s *Store) newWriter(bucket, name string, o PutOptions) (*writer, error) {
	k, err := s.choose(bucket, name, o.Size, o.purpose())
	if err != nil {
		return nil, fmt.Errorf("put %s/%s: %w", bucket, name, err)
	}
	meta := maps.Clone(o.Meta)
	delete(meta, UnreadMark) // it is read now
	return &writer{
		disk: k, id: k.newFileID(), given: o.Version, purpose: o.purpose(), whole: xxh3.New(), indexer: archive.NewIndexer(o.Archive),
		lenient: o.Lenient,
		info: Info{
			Bucket: bucket, Name: name, ContentType: o.ContentType, Meta: meta, Archive: o.Archive, Disk: k.ID,
			Created: o.Created.UTC().Round(0), Data: o.Data, Parity: o.Parity,
		},
	}, nil
}

// chunkSize is how much of a body is hashed and written at once: small enough for the processor's cache,
// a multiple of the block size.
const chunkSize = 512 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// smallChunks is the part of a body that is taken in block by block where others read it while it comes.
const smallChunks = 1 << 20

// flushEvery is how much is written before the disk is asked to begin with it.
const flushEvery = 8 << 20

// create makes the temporary file.
func (w *writer) create() error {
	f, err := w.disk.fs.OpenFile(w.id.tmp(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w.file, w.path = f, w.id.tmp()
	atCreated.Hit()
	return nil
}

// write takes the body into a temporary file and checks it against what was promised.
func (w *writer) write(ctx context.Context, body io.Reader, o PutOptions) error {
	if err := w.create(); err != nil {
		return err
	}
	if o.Follow != nil {
		var err error
		if w.growing, err = w.newGrowing(); err != nil {
			return err
		}
		o.Follow(w.growing)
	}
	if err := w.payload(ctx, body, o.Size); err != nil {
		return err
	}
	atPayload.Hit()
	if err := w.checkPromises(o); err != nil {
		return err
	}
	return w.finishIndex()
}

// finishIndex completes what is told of an archive.
func (w *writer) finishIndex() error {
	if w.info.Archive == archive.None {
		return nil
	}
	x, err := w.indexer.Finish()
	if err != nil {
		return w.unindexed(err)
	}
	w.info.Members, w.info.Samples, w.info.MaxSample = int64(x.NumMembers()), int64(x.NumSamples()), x.MaxSample()
	w.index, err = x.MarshalBinary()
	return err
}

// unindexed goes on with an archive that can't be indexed as with opaque bytes, where it may.
func (w *writer) unindexed(err error) error {
	if !w.lenient {
		return err
	}
	w.info.Archive, w.indexer = archive.None, archive.NewIndexer(archive.None)
	if w.info.Meta == nil {
		w.info.Meta = map[string]string{}
	}
	w.info.Meta[UnindexedMark] = err.Error()
	return nil
}

func (w *writer) payload(ctx context.Context, body io.Reader, size int64) error {
	buf, _ := chunks.Get().(*[chunkSize]byte)
	defer chunks.Put(buf)
	var flushed int64
	for last := false; !last; {
		if err := cancelled(ctx, "body abandoned"); err != nil {
			return err
		}
		chunk := buf[:]
		if w.growing != nil && w.info.Size < smallChunks {
			chunk = buf[:BlockSize]
		}
		n, err := readChunk(body, chunk)
		if last = errors.Is(err, io.EOF); err != nil && !last {
			return w.bodyError(err, size, n)
		}
		if err := w.chunk(buf[:n]); err != nil {
			return err
		}
		if size >= 0 && (w.info.Size > size || last && w.info.Size < size) {
			return w.shortBody(size, min(w.info.Size, size+1))
		}
		if w.info.Size-flushed >= flushEvery {
			w.file.StartWrite(flushed, w.info.Size-flushed)
			flushed = w.info.Size
		}
	}
	return nil
}

// readChunk fills p; io.EOF comes with the last bytes. Unlike io.ReadFull it can't take a body that was cut
// off, for which net/http answers io.ErrUnexpectedEOF, for one that ended.
func readChunk(r io.Reader, p []byte) (n int, err error) {
	for idle := 0; n < len(p) && err == nil; idle++ {
		var m int
		m, err = r.Read(p[n:])
		if n += m; m > 0 {
			idle = 0
		} else if idle > 100 {
			return n, io.ErrNoProgress
		}
	}
	return n, err
}

func (w *writer) bodyError(err error, size int64, n int) error {
	if size >= 0 && errors.Is(err, io.ErrUnexpectedEOF) {
		return w.shortBody(size, w.info.Size+int64(n))
	}
	return fmt.Errorf("body could not be read after %d bytes: %w", w.info.Size+int64(n), err)
}

func (w *writer) shortBody(want, got int64) error {
	return &ShortBodyError{Bucket: w.info.Bucket, Name: w.info.Name, Want: want, Got: got}
}

// chunk hashes and writes some of the payload: whole blocks, but for the last chunk.
func (w *writer) chunk(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if err := w.disk.hasRoom(int64(len(p)), w.purpose); err != nil {
		return err
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), BlockSize)
		w.sums = binary.LittleEndian.AppendUint64(w.sums, xxh3.Hash(rest[:n]))
		rest = rest[n:]
	}
	_, _ = w.whole.Write(p)
	w.crc = crc32.Update(w.crc, crc32.IEEETable, p)
	if _, err := w.indexer.Write(p); err != nil {
		if err = w.unindexed(err); err != nil {
			return err
		}
	}
	n, err := w.file.WriteAt(p, w.info.Size)
	w.info.Size += int64(n)
	if err == nil && w.growing != nil {
		w.growing.grow(n, w.sums)
	}
	return err
}

func (w *writer) checkPromises(o PutOptions) error {
	w.info.XXH3, w.info.CRC32 = w.whole.Sum64(), w.crc
	bad := func(algorithm string, want, got uint64) error {
		return &ChecksumError{Bucket: w.info.Bucket, Name: w.info.Name, Algorithm: algorithm, Want: want, Got: got}
	}
	if o.XXH3 != nil && *o.XXH3 != w.info.XXH3 {
		return bad("xxh3", *o.XXH3, w.info.XXH3)
	}
	if o.CRC32 != nil && *o.CRC32 != w.info.CRC32 {
		return bad("crc32", uint64(*o.CRC32), uint64(w.info.CRC32))
	}
	return nil
}

// finish gives the file a version and its trailer and syncs it. It may be called again for a newer version.
func (w *writer) finish(s *Store) error {
	if w.info.Version = w.given; w.given == 0 {
		w.info.Version = s.nextVersion()
	}
	if w.given == 0 || w.info.Created.IsZero() {
		w.info.Created = s.o.Now().UTC().Round(0)
	}
	if w.bare {
		return nil
	}
	payload := w.info.Payload()
	ft := footer{size: payload, version: w.info.Version}
	trailer := appendTrailer(nil, &ft, w.sums, w.index, appendInfo(nil, &w.info))
	w.seal = ft.seal
	if w.info.Kind == Whole || w.info.Kind == Slice { // the others are what the reserve is for
		if err := w.disk.hasRoom(int64(len(trailer)), w.purpose); err != nil {
			return err
		}
	}
	if _, err := w.file.WriteAt(trailer, payload); err != nil {
		return err
	}
	if err := w.file.Truncate(payload + int64(len(trailer))); err != nil {
		return err
	}
	atTrailer.Hit()
	if err := w.file.Sync(); err != nil {
		return err
	}
	atFinished.Hit()
	return nil
}

// discard removes what was written, unless it was committed.
func (w *writer) discard() error {
	var errs []error
	if w.file != nil {
		errs = append(errs, w.file.Close())
		w.file = nil
	}
	if w.path != "" && !w.disk.isOut() { // what is left there goes when it is opened anew
		errs = append(errs, w.disk.fs.Remove(w.path))
	}
	w.path = ""
	return errors.Join(errs...)
}
