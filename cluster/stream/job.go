package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/sampler"
)

// readAheadFrom is the size from which an item is announced to the kernel while earlier batches are sent.
const readAheadFrom = 16 << 10

// verifyAtOnce is the size up to which an item is verified in one read.
const verifyAtOnce = 1 << 20

// segment is where an item's bytes come from: memory, or a range of a shard's file.
type segment struct {
	data  []byte
	shard *shard
	off   int64
}

// job is one batch's part on this target, from plan to payload. Jobs are reused.
type job struct {
	frame   wire.Batch
	head    []byte
	segs    []segment // of frame.Items
	pins    []*shard
	data    []byte // holds what was read for verification or transformation
	now     time.Time
	clock   clock
	work    wire.Work // of preparing the batch
	claim   int64     // bytes of the budget that a transformed batch takes
	damaged func(*store.CorruptError)
	kept    int64 // bytes of the budget that large descriptions take, as long as the stream is open

	found  []found
	items  []wire.Item
	order  []segment
	starts []int // of the fields, in the order by field
	in     []etl.Sample
	out    []etl.Result
	flds   []etl.Field

	tasks    []task // what is decoded
	cuts     []int  // ends of the runs of tasks
	values   values
	decoding chan error // what came of it; nil where nothing is decoded
}

// found is a sample of the batch that lies here.
type found struct {
	place int
	shard *shard
	index int
	draw  sampler.Draw
}

// fill plans batch index and prepares its frame; without samples of ours the frame stays empty.
func (r *Reader) fill(ctx context.Context, j *job, index int64) error {
	j.clock, j.work = startClock(), wire.Work{}
	j.frame.Reset(index)
	j.now = time.Now()
	r.shards.follow(j.now)
	j.segs, j.found, j.tasks = j.segs[:0], j.found[:0], j.tasks[:0]
	j.values.reset()
	spec := r.view.Batch(index)
	n := int(spec.Count + spec.Pad)
	if r.places == nil {
		for at := range n {
			if err := r.find(ctx, j, at, spec.Start+int64(at)); err != nil {
				return err
			}
		}
	}
	for _, at := range r.places {
		if at >= n {
			return api.Errorf(400, api.CodeBadRequest, "place %d in a batch of %d", at, n)
		}
		if err := r.find(ctx, j, at, spec.Start+int64(at)); err != nil {
			return err
		}
	}
	j.clock.lap(&j.work.Plan)
	if len(j.found) == 0 {
		return nil
	}
	raw := r.rawFirst(j.found)
	for _, f := range j.found[:raw] {
		if err := r.raw(j, f); err != nil {
			return err
		}
	}
	j.clock.lap(&j.work.Plan)
	if r.req.Verify {
		r.verify(j)
		j.clock.lap(&j.work.Read)
	}
	if raw < len(j.found) {
		if err := r.transform(ctx, j, j.found[raw:]); err != nil {
			return err
		}
	}
	return r.finish(ctx, j)
}

// finish makes a frame of what the job has gathered, once that is decoded.
func (r *Reader) finish(ctx context.Context, j *job) error {
	if len(j.tasks) > 0 {
		return r.complete(ctx, j)
	}
	if r.decode != nil {
		j.dropFailed()
	}
	j.byField()
	j.clock.lap(&j.work.Plan)
	return nil
}

func (r *Reader) find(ctx context.Context, j *job, place int, pos int64) error {
	draw := r.order.Draw(pos)
	at, index := r.order.Snapshot().Locate(draw.Sample)
	sh := r.shards.get(ctx, at)
	switch {
	case sh == nil:
		return nil
	case exhausted(sh.err): // the node's trouble, and passing: no sample is to be left out for it
		return api.Errorf(503, api.CodeUnavailable, "shard ss://%s can't be opened now: %v; end some streams, or let the target open more files (ulimit -n)", r.order.Snapshot().Shard(at).Name, sh.err)
	}
	j.pins = append(j.pins, sh)
	j.found = append(j.found, found{place: place, shard: sh, index: int(index), draw: draw})
	return nil
}

// exhausted says that an error is for want of descriptors or memory.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// raw adds a sample as it lies in its shard: one item for each member.
func (r *Reader) raw(j *job, f found) error {
	if f.shard.err != nil {
		j.fail(f, r.nameOf(f), f.shard.err)
		return nil
	}
	x := f.shard.index
	ahead := !r.req.Verify && !f.shard.warm(j.now)
	sample := j.add(f, x.Key(f.index))
	first, count := x.Sample(f.index)
	for m := first; m < first+count; m++ {
		field := x.Field(m)
		if !r.wants(field) {
			continue
		}
		member := x.Member(m)
		if d := r.decode.Decoder(field); d != nil {
			t := j.task(sample, d)
			t.shard, t.off, t.size, t.sum = f.shard, member.Offset, member.Size, member.Sum
			continue
		}
		if r.decode.Makes(field) {
			r.clash(j, sample, field)
			continue
		}
		number, err := j.field(field)
		if err != nil {
			return err
		}
		j.frame.Items = append(j.frame.Items, wire.Item{Sample: sample, Field: number, Size: member.Size, Sum: member.Sum})
		j.segs = append(j.segs, segment{shard: f.shard, off: member.Offset})
		if ahead && member.Size >= readAheadFrom {
			// A hint: where the file system ignores it, sending waits for the disk instead.
			_ = unix.Fadvise(int(f.shard.object.File().Fd()), member.Offset, member.Size, unix.FADV_WILLNEED)
		}
	}
	return nil
}

// field numbers a field of the frame; no frame holds more than the loader would take.
func (j *job) field(name string) (int, error) {
	n := j.frame.Field(name)
	if n >= wire.MaxFields {
		return 0, api.Errorf(400, api.CodeBadRequest, "batch %d has more than %d different fields; choose those that you need by fields", j.frame.Index, wire.MaxFields)
	}
	return n, nil
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

// nameOf stands for the key of a sample whose shard can't say it.
func (r *Reader) nameOf(f found) string {
	return fmt.Sprintf("%s%s#%d", api.Scheme, r.order.Snapshot().Shard(f.shard.number).Name, f.index)
}

func (j *job) fail(f found, key string, err error) {
	j.failSample(j.add(f, key), err)
}

// failSample fails a sample of the frame; the first error counts.
func (j *job) failSample(sample int, err error) {
	s := &j.frame.Samples[sample]
	if s.Failed {
		return
	}
	var damage *store.CorruptError
	if j.damaged != nil && errors.As(err, &damage) {
		j.damaged(damage)
	}
	code, message := failureOf(err)
	s.Failed, s.Code, s.Message = true, []byte(code), []byte(message)
}

// verify reads all items ahead of sending them; a sample with a damaged one fails by name.
func (r *Reader) verify(j *job) {
	for i := range j.frame.Items {
		it, seg := &j.frame.Items[i], &j.segs[i]
		if j.frame.Samples[it.Sample].Failed {
			continue
		}
		if err := j.verifyItem(seg.shard, seg.off, it.Size, it.Sum); err != nil {
			j.failSample(it.Sample, shardError(r.order.Snapshot().Shard(seg.shard.number), err))
		}
	}
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

// verifyItem verifies a member by its own checksum, which touches no byte outside it; only a mismatch is
// worth the blocks around it, to say which one is damaged.
func (j *job) verifyItem(sh *shard, off, size int64, sum uint64) error {
	if size <= verifyAtOnce {
		if int64(cap(j.data)) < size {
			j.data = make([]byte, verifyAtOnce)
		}
		buf := j.data[:size]
		// An error shows again below, where it gets its name.
		if _, err := sh.object.File().ReadAt(buf, off); err == nil && xxh3.Hash(buf) == sum {
			return nil
		}
	}
	return damageOf(sh, off, size, sum)
}

// damageOf reads a member through the checksums of its blocks to say what is wrong with it; nil where it
// is sound.
func damageOf(sh *shard, off, size int64, sum uint64) error {
	h := xxh3.New()
	if _, err := sh.object.WriteRange(h, off, size); err != nil {
		return err
	}
	if h.Sum64() == sum {
		return nil
	}
	return corrupt(sh, off, "a member does not match the checksum in the index")
}

func corrupt(sh *shard, off int64, detail string) error {
	info := sh.object.Info()
	return &store.CorruptError{Bucket: info.Bucket, Name: info.Name, Disk: info.Disk, Block: -1, Offset: off, Detail: detail}
}

// byField sorts the payload by field, samples in order within: byte strings of one field arrive as one
// run, and large items follow each other without small ones between them.
func (j *job) byField() {
	if len(j.frame.Fields) < 2 {
		return
	}
	j.starts = append(j.starts[:0], make([]int, len(j.frame.Fields)+1)...)
	for i := range j.frame.Items {
		j.starts[j.frame.Items[i].Field+1]++
	}
	for f := range j.frame.Fields {
		j.starts[f+1] += j.starts[f]
	}
	n := len(j.frame.Items)
	j.items, j.order = slices.Grow(j.items[:0], n)[:n], slices.Grow(j.order[:0], n)[:n]
	for i := range j.frame.Items {
		at := &j.starts[j.frame.Items[i].Field]
		j.items[*at], j.order[*at] = j.frame.Items[i], j.segs[i]
		*at++
	}
	j.frame.Items, j.items = j.items, j.frame.Items
	j.segs, j.order = j.order, j.segs
}

// describedBytes is about what a job's descriptions take for each sample and each item of its frame.
const describedBytes = 160

// keep takes what a large batch's descriptions need, for as long as the stream is open: they are kept
// from batch to batch, so that the steady state allocates nothing.
func (r *Reader) keep(j *job) error {
	bytes := int64(cap(j.frame.Samples)+cap(j.frame.Items)+cap(j.items)) * describedBytes
	if bytes <= j.kept+keptBytes {
		return nil
	}
	if err := r.tenant.keep(bytes - j.kept); err != nil {
		return err
	}
	j.kept = bytes
	return nil
}

// release gives the job's shards back.
func (r *Reader) release(j *job) {
	for _, sh := range j.pins {
		r.shards.release(sh)
	}
	clear(j.pins)
	clear(j.segs)
	j.pins, j.segs = j.pins[:0], j.segs[:0]
	if j.claim > 0 { // nothing may keep what it counted
		clear(j.out)
		clear(j.order)
		for i := range j.tasks {
			j.tasks[i].data = nil
			clear(j.tasks[i].values)
		}
		j.values.drop()
		r.tenant.unclaim(j.claim)
		j.claim = 0
	}
}
