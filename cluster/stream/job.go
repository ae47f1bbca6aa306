package stream

import (
	"context"
	"errors"
	"io"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/etl"
)

// readAheadFrom is the size from which an item is announced to the kernel while earlier batches are sent.
const readAheadFrom = 16 << 10

// segment is where an item's bytes come from: memory, or a range of a shard's file.
type segment struct {
	data  []byte
	shard *shard
	off   int64
}

// job is one batch's part on this target, from plan to payload. Jobs are reused.
type job struct {
	frame wire.Batch
	head  []byte
	segs  []segment // of frame.Items
	pins  []*shard
	data  []byte // holds what was read for verification or transformation

	found []found
	items []wire.Item
	order []segment
	in    []etl.Sample
	out   []etl.Result
	flds  []etl.Field
}

// found is a sample of the batch that lies here.
type found struct {
	place  int
	shard  *shard
	index  int
	number int64 // of the sample in the snapshot
}

// fill plans batch index and prepares its frame; without samples of ours the frame stays empty.
func (r *Reader) fill(ctx context.Context, j *job, index int64) error {
	j.frame.Reset(index)
	j.segs, j.found = j.segs[:0], j.found[:0]
	spec := r.view.Batch(index)
	n := int(spec.Count + spec.Pad)
	if r.places == nil {
		for at := range n {
			r.find(j, at, spec.Start+int64(at))
		}
	}
	for _, at := range r.places {
		if at >= n {
			return api.Errorf(400, api.CodeBadRequest, "place %d in a batch of %d", at, n)
		}
		r.find(j, at, spec.Start+int64(at))
	}
	if len(j.found) == 0 {
		return nil
	}
	if r.pool != nil {
		return r.transform(ctx, j)
	}
	for _, f := range j.found {
		r.raw(j, f)
	}
	if r.req.Verify {
		r.readVerified(j)
	}
	j.byField()
	return nil
}

func (r *Reader) find(j *job, place int, pos int64) {
	number := r.order.Sample(pos)
	at, index := r.order.Snapshot().Locate(number)
	sh := r.shards.get(at)
	if sh == nil {
		return
	}
	j.pins = append(j.pins, sh)
	j.found = append(j.found, found{place: place, shard: sh, index: int(index), number: number})
}

// raw adds a sample as it lies in its shard: one item for each member.
func (r *Reader) raw(j *job, f found) {
	if f.shard.err != nil {
		j.fail(f, "", f.shard.err)
		return
	}
	x := f.shard.index
	sample := j.add(f, x.Key(f.index))
	first, count := x.Sample(f.index)
	for m := first; m < first+count; m++ {
		field := x.Field(m)
		if !r.wants(field) {
			continue
		}
		member := x.Member(m)
		j.frame.Items = append(j.frame.Items, wire.Item{Sample: sample, Field: j.frame.Field(field), Size: member.Size, Sum: member.Sum})
		j.segs = append(j.segs, segment{shard: f.shard, off: member.Offset})
		if member.Size >= readAheadFrom && !r.req.Verify {
			// A hint: where the file system ignores it, sending waits for the disk instead.
			_ = unix.Fadvise(int(f.shard.object.File().Fd()), member.Offset, member.Size, unix.FADV_WILLNEED)
		}
	}
}

func (j *job) add(f found, key string) int {
	n := len(j.frame.Samples)
	if n < cap(j.frame.Samples) {
		j.frame.Samples = j.frame.Samples[:n+1]
	} else {
		j.frame.Samples = append(j.frame.Samples, wire.Sample{})
	}
	s := &j.frame.Samples[n]
	s.Slot, s.Failed, s.Code, s.Message = f.place, false, nil, nil
	s.Key = append(s.Key[:0], key...)
	return n
}

func (j *job) fail(f found, key string, err error) {
	code, message := failureOf(err)
	s := &j.frame.Samples[j.add(f, key)]
	s.Failed, s.Code, s.Message = true, []byte(code), []byte(message)
}

// readVerified reads all items through the block checksums; a sample with a damaged one fails by name.
func (r *Reader) readVerified(j *job) {
	items, segs := j.frame.Items[:0], j.segs[:0]
	for i := range j.frame.Items {
		it, seg := j.frame.Items[i], j.segs[i]
		s := &j.frame.Samples[it.Sample]
		if s.Failed {
			continue
		}
		buf := make([]byte, it.Size)
		if err := readItem(seg.shard, buf, seg.off, it.Sum); err != nil {
			code, message := failureOf(shardError(r.order.Snapshot().Shard(seg.shard.number), err))
			s.Failed, s.Code, s.Message = true, []byte(code), []byte(message)
			continue
		}
		items, segs = append(items, it), append(segs, segment{data: buf})
	}
	j.frame.Items, j.segs = items, segs
	j.dropFailed()
}

// dropFailed removes items of samples that failed after some of their items were added.
func (j *job) dropFailed() {
	items, segs := j.frame.Items[:0], j.segs[:0]
	for i := range j.frame.Items {
		if !j.frame.Samples[j.frame.Items[i].Sample].Failed {
			items, segs = append(items, j.frame.Items[i]), append(segs, j.segs[i])
		}
	}
	j.frame.Items, j.segs = items, segs
}

// readItem reads a member and verifies it by its own checksum, which touches no byte outside it; only a
// mismatch is worth the blocks around it, to say which one is damaged.
func readItem(sh *shard, buf []byte, off int64, sum uint64) error {
	if len(buf) == 0 {
		return nil
	}
	_, err := sh.object.File().ReadAt(buf, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err == nil && xxh3.Hash(buf) == sum {
		return nil
	}
	if err := sh.object.VerifyRange(off, int64(len(buf))); err != nil {
		return err
	}
	info := sh.object.Info()
	return &store.CorruptError{Bucket: info.Bucket, Name: info.Name, Disk: info.Disk, Block: -1, Offset: off, Detail: "a member does not match the checksum in the index"}
}

// byField sorts the payload by field, samples in order within: byte strings of one field arrive as one
// run, and large items follow each other without small ones between them.
func (j *job) byField() {
	if len(j.frame.Fields) < 2 {
		return
	}
	j.items, j.order = j.items[:0], j.order[:0]
	for f := range j.frame.Fields {
		for i := range j.frame.Items {
			if j.frame.Items[i].Field == f {
				j.items, j.order = append(j.items, j.frame.Items[i]), append(j.order, j.segs[i])
			}
		}
	}
	j.frame.Items, j.items = j.items, j.frame.Items
	j.segs, j.order = j.order, j.segs
}

// release gives the job's shards back.
func (r *Reader) release(j *job) {
	for _, sh := range j.pins {
		r.shards.release(sh)
	}
	clear(j.pins)
	clear(j.segs)
	j.pins, j.segs = j.pins[:0], j.segs[:0]
}
