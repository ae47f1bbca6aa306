package loader

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/sampler"
)

// Places of a batch go from empty to claimed (a puller is reading the sample) to filled or failed.
const (
	placeEmpty uint8 = iota
	placeClaimed
	placeFilled
	placeFailed
)

// nowhere is the destination of an item whose sample is already there: its bytes are read and dropped.
const nowhere = wire.Nowhere

// column collects one field over the samples of a batch.
type column struct {
	name     string
	dtype    uint8
	ndim     uint8
	dims     [wire.MaxDims]int64
	itemSize int64 // bytes of one item of the dense form
	base     int64 // of the dense form, nowhere while there is none; arrays only
	ragged   bool  // some item has another shape and lies elsewhere
	strayed  bool  // some item of the one shape lies elsewhere: the dense form is made at the end
	entries  []entry
}

// entry is one sample's value in a column; size < 0 means that the sample has no such field.
type entry struct {
	off, size int64
	ndim      uint8
	dims      [wire.MaxDims]int64
}

// entryBytes is the size of an entry; minColumns is what entries may take in any case.
const (
	entryBytes = int64(unsafe.Sizeof(entry{}))
	minColumns = 16 << 20
)

// failure is a sample that the policy must judge.
type failure struct {
	place         int
	key           string
	code, message string
}

// batch is a batch under assembly. Its buffers are reused from batch to batch.
type batch struct {
	mu       sync.Mutex
	index    int64
	spec     sampler.Batch
	n        int // places: the real samples, or the padded ones where there are none
	size     int // rows that the batch will have: n at most, or the batch size where short ones are padded
	pad      bool
	slot     *slot
	state    []uint8
	missing  int // places neither filled nor failed
	keys     []byte
	keyAt    [][2]int32 // of each place in keys
	cols     []column   // the first ncols are in use
	ncols    int
	failures []failure
	bytes    int64
	repair   bool // a repair of holes is under way
	tainted  bool // a target may still write to places that it was given once: they are not given again
	doubted  []failure
	resigned bool   // those doubted are believed: all targets were asked
	unused   []span // memory of frames whose payload did not arrive

	by   string // the target that filled the last place
	rows []int  // of the finished batch: the place that each row shows
	mask []byte // of the finished batch: 1 for rows that are samples; empty where all are
}

// span is a part of a slot.
type span struct{ off, size int64 }

// reset begins a batch. With padTo it will have so many rows, whatever becomes of its samples.
func (b *batch) reset(index int64, spec sampler.Batch, s *slot, padTo int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := int(spec.Count + spec.Pad)
	b.index, b.spec, b.n, b.slot = index, spec, n, s
	b.missing, b.bytes, b.repair, b.tainted, b.resigned, b.ncols = n, 0, false, false, false, 0
	b.size, b.pad, b.by = max(n, padTo), padTo > 0, ""
	b.keys, b.failures, b.doubted, b.unused = b.keys[:0], b.failures[:0], b.doubted[:0], b.unused[:0]
	b.state, b.keyAt = resize(b.state, n), resize(b.keyAt, n)
	clear(b.state)
	clear(b.keyAt)
}

// retire marks a batch as delivered: a puller that comes late with samples of it finds no place for them.
func (b *batch) retire() {
	b.mu.Lock()
	b.slot = nil
	b.mu.Unlock()
}

// memory returns the slot's bytes; the caller has claimed places, so the batch can't be retired.
func (b *batch) memory() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.slot == nil {
		return nil
	}
	return b.slot.mem
}

// reclaim keeps the memory at dst for frames to come.
func (b *batch) reclaim(f *wire.Batch, dst []int64) {
	run := span{off: nowhere}
	for i := range f.Items {
		it := &f.Items[i]
		switch {
		case dst[i] == nowhere:
		case !wire.IsArray(it.DType):
			if run.off == nowhere {
				run.off = dst[i]
			}
			run.size += it.Size
		default:
			c, err := b.column(f.Fields[it.Field], it)
			if err == nil && dst[i] != c.base+int64(f.Samples[it.Sample].Slot)*c.itemSize { // a dense item's place stays its own
				b.unused = append(b.unused, span{dst[i], it.Size})
			}
		}
	}
	if run.size > 0 {
		b.unused = append(b.unused, run)
	}
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// column finds or makes the column of a field.
func (b *batch) column(name string, it *wire.Item) (*column, error) {
	for i := range b.cols[:b.ncols] {
		c := &b.cols[i]
		if c.name != name {
			continue
		}
		if c.dtype != it.DType {
			return nil, api.Errorf(422, api.CodeETLFailed, "field %q is %s in one sample and %s in another of batch %d; make the function return one type for it",
				name, wire.DTypeName(c.dtype), wire.DTypeName(it.DType), b.index)
		}
		return c, nil
	}
	if name == "__key__" || name == "__mask__" || name == "__source__" { // columns of the batch's own
		return nil, badRequest("the samples have a field %q, a name that batches use for something else: choose the others by fields, or rename it", name)
	}
	if b.ncols == len(b.cols) {
		// Each takes memory for every sample of the batch, whether they have such a field or not.
		if int64(b.ncols+1)*int64(b.n)*entryBytes > max(b.slot.most/4, minColumns) {
			return nil, badRequest("batch %d has more than %d different fields; choose those that you need by fields, or raise max_batch_bytes", b.index, b.ncols)
		}
		b.cols = append(b.cols, column{})
	}
	c := &b.cols[b.ncols]
	*c = column{name: name, dtype: it.DType, ndim: it.NDim, dims: it.Dims, itemSize: it.Size, entries: resize(c.entries, b.n)}
	for i := range c.entries {
		c.entries[i].size = -1
	}
	if wire.IsArray(c.dtype) {
		// The first array decides the dense form; its place in the batch is then known for each sample.
		// Where that does not fit, others may be smaller: it is made at the end, if all have this shape.
		base, err := b.slot.alloc(c.itemSize * int64(b.size))
		if err != nil {
			base = nowhere
		}
		c.base = base
	}
	b.ncols++
	return c, nil
}

// place claims the samples of a frame and decides where each item goes: dst[i] is the offset of item i
// in the slot, or nowhere. Byte strings of one frame lie back to back, so that they arrive in few reads.
// It reports whether places were claimed: as long as some are, the batch is not delivered, nor reused.
func (b *batch) place(f *wire.Batch, dst []int64) (placed []int64, claimed bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	claimed, err = b.claim(f)
	if err != nil {
		return nil, false, err
	}
	dst = resize(dst, len(f.Items))
	if !claimed {
		for i := range dst {
			dst[i] = nowhere
		}
		return dst, false, nil
	}
	var strings int64
	for i := range f.Items {
		it := &f.Items[i]
		if !wire.IsArray(it.DType) && f.Samples[it.Sample].Slot != nowhere {
			strings += it.Size
		}
	}
	run, err := b.alloc(strings)
	if err != nil {
		return nil, true, err
	}
	for i := range f.Items {
		if dst[i], err = b.placeItem(f, &f.Items[i], &run); err != nil {
			return nil, true, err
		}
	}
	return dst, true, nil
}

// claim takes the frame's places that are empty; the others become nowhere, all of them where the batch is
// another one by now. It reports whether there is any: it takes none where the frame is at fault.
func (b *batch) claim(f *wire.Batch) (some bool, err error) {
	late := b.slot == nil || b.index != f.Index
	for i := range f.Samples {
		if at := f.Samples[i].Slot; !late && at >= b.n {
			return false, fmt.Errorf("%w: place %d in a batch of %d", wire.ErrMalformed, at, b.n)
		}
	}
	for i := range f.Samples {
		s := &f.Samples[i]
		if late || b.state[s.Slot] != placeEmpty {
			s.Slot = nowhere
			continue
		}
		b.state[s.Slot] = placeClaimed
		some = true
	}
	return some, nil
}

func (b *batch) placeItem(f *wire.Batch, it *wire.Item, run *int64) (int64, error) {
	at := f.Samples[it.Sample].Slot
	if at == nowhere {
		return nowhere, nil
	}
	c, err := b.column(f.Fields[it.Field], it)
	if err != nil {
		return 0, err
	}
	if !wire.IsArray(it.DType) {
		off := *run
		*run += it.Size
		return off, nil
	}
	if it.NDim != c.ndim || it.Dims != c.dims {
		c.ragged = true
	} else if !b.tainted && c.base != nowhere {
		return c.base + int64(at)*c.itemSize, nil
	}
	c.strayed = true
	return b.alloc(it.Size)
}

// target is what a target on this machine needs to reach the batch's memory; the caller has claimed places.
func (b *batch) target() (s *slot, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.slot, b.slot.size
}

// taint says that places which were given to a target must not be given again.
func (b *batch) taint() *slot {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tainted = true
	return b.slot
}

// alloc takes memory of the slot: what a frame that broke off has left first, as that frame comes again.
// A batch takes no more for having been interrupted many times.
func (b *batch) alloc(n int64) (int64, error) {
	for i, s := range b.unused {
		if n > 0 && s.size >= n {
			b.unused[i] = b.unused[len(b.unused)-1]
			b.unused = b.unused[:len(b.unused)-1]
			return s.off, nil
		}
	}
	return b.slot.alloc(n)
}

// unclaim gives the places of a frame back, and the memory at dst, after its payload did not arrive.
func (b *batch) unclaim(f *wire.Batch, dst []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.tainted && len(dst) == len(f.Items) {
		b.reclaim(f, dst)
	}
	for i := range f.Samples {
		if at := f.Samples[i].Slot; at != nowhere && b.state[at] == placeClaimed {
			b.state[at] = placeEmpty
		}
	}
}

// commit records a frame whose payload is in place; damaged marks samples whose bytes did not match their
// checksums, which go back to empty. It reports whether the batch is now complete.
func (b *batch) commit(f *wire.Batch, dst []int64, damaged []bool) (complete bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range f.Samples {
		s := &f.Samples[i]
		switch {
		case s.Slot == nowhere:
		case damaged[i]:
			b.state[s.Slot] = placeEmpty
		case s.Failed && !b.resigned && unreadable(string(s.Code)):
			b.state[s.Slot] = placeEmpty
			b.doubted = append(b.doubted, failure{s.Slot, string(s.Key), string(s.Code), string(s.Message)})
		case s.Failed:
			b.settle(s.Slot, placeFailed)
			b.failures = append(b.failures, failure{s.Slot, string(s.Key), string(s.Code), string(s.Message)})
		default:
			b.settle(s.Slot, placeFilled)
			start := len(b.keys)
			b.keys = append(b.keys, s.Key...)
			b.keyAt[s.Slot] = [2]int32{int32(start), int32(len(b.keys))}
		}
	}
	for i := range f.Items {
		it := &f.Items[i]
		at := f.Samples[it.Sample].Slot
		if at == nowhere || damaged[it.Sample] {
			continue
		}
		c, err := b.column(f.Fields[it.Field], it)
		if err != nil {
			continue // place found the column already
		}
		c.entries[at] = entry{off: dst[i], size: it.Size, ndim: it.NDim, dims: it.Dims}
		b.bytes += it.Size
	}
	return b.missing == 0
}

// unreadable says that a failure is the target's: another one may have a sound copy, so all are asked before the sample
// is given up.
func unreadable(code string) bool { return code == api.CodeCorrupt || code == api.CodeInternal }

// resign gives those samples up that some target could not read, and nobody else sent. It reports whether the batch is
// now complete.
func (b *batch) resign(index int64) (complete bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.slot == nil || b.index != index {
		return false
	}
	for _, f := range b.doubted {
		if b.state[f.place] == placeEmpty {
			b.settle(f.place, placeFailed)
			b.failures = append(b.failures, f)
		}
	}
	b.resigned, b.doubted = true, b.doubted[:0]
	return b.missing == 0
}

func (b *batch) settle(at int, state uint8) {
	b.state[at] = state
	b.missing--
}

// holes lists the places of batch index that nobody is filling; none when it was delivered, and its
// buffers may serve another batch.
func (b *batch) holes(index int64, dst []int) []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.slot == nil || b.index != index {
		return dst
	}
	for at, s := range b.state {
		if s == placeEmpty {
			dst = append(dst, at)
		}
	}
	return dst
}
