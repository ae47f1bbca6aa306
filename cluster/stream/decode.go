package stream

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/decode"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/etl"
)

const (
	// maxSource bounds a field that is read into memory to be decoded.
	maxSource = 256 << 20
	// runWork is how much work, in bytes to be copied, a decoder takes at once: labels go by the thousand,
	// images one by one.
	runWork = 1 << 20
	// keepSource is how much memory a decoder keeps between fields.
	keepSource = 8 << 20
	// maxDepth bounds the batches that are decoded at once where they are small.
	maxDepth = 16
)

// decoders are a target's: as many as it has processors, whichever streams want them, so that decoding uses
// all processors and memory does not grow with the number of streams. The zero value is ready.
type decoders struct {
	once  sync.Once
	free  chan *decoder
	large sync.Mutex // held by the one that decodes a very large image
}

// decoder is the working memory of one goroutine that decodes.
type decoder struct {
	scratch decode.Scratch
	source  []byte
}

func (d *decoders) ready() {
	d.once.Do(func() {
		n := runtime.GOMAXPROCS(0)
		d.free = make(chan *decoder, n)
		for range n {
			d.free <- &decoder{scratch: decode.Scratch{Large: &d.large}}
		}
	})
}

// task is one field to be decoded: where its bytes are, and what became of them.
type task struct {
	sample  int // index in the frame
	decoder *decode.Decoder
	data    []byte // where an ETL made it
	shard   *shard // else
	off     int64
	size    int64
	sum     uint64

	values []decode.Value
	sums   []uint64 // of the values
	err    error    // of the sample
}

// task adds a task to the job, with the memory of an earlier one.
func (j *job) task(sample int, d *decode.Decoder) *task {
	n := len(j.tasks)
	if n < cap(j.tasks) {
		j.tasks = j.tasks[:n+1]
	} else {
		j.tasks = append(j.tasks, task{})
	}
	t := &j.tasks[n]
	*t = task{sample: sample, decoder: d, values: t.values[:0], sums: t.sums[:0]}
	return t
}

// clash fails a sample that has a field of the name of a decoded column.
func (r *Reader) clash(j *job, sample int, field string) {
	j.failSample(sample, &decode.Error{Column: field, Reason: "the sample has this field, and decode makes a column of this name; choose one by fields"})
}

// outputField is a field that an ETL made, to be decoded.
func (j *job) outputField(sample int, name string, v *etl.Value, d *decode.Decoder) {
	if wire.IsArray(uint8(v.DType)) {
		j.failSample(sample, &decode.Error{Column: name, Reason: "comes from the etl as " + wire.DTypeName(uint8(v.DType)) + ", not as bytes; leave it out of decode"})
		return
	}
	t := j.task(sample, d)
	t.data, t.size = v.Data, int64(len(v.Data))
}

// complete decodes what the job has to decode, in the background, and makes its frame whole. The sender
// waits for it; the order of batches is that of the jobs in its channel.
func (r *Reader) complete(ctx context.Context, j *job) error {
	if err := r.room(ctx, j); err != nil {
		return err
	}
	j.decoding = make(chan error, 1)
	r.work.Go(func() {
		err := r.decodeAll(ctx, j)
		if err == nil {
			err = r.collect(j)
		}
		j.decoding <- err
	})
	return nil
}

// room waits for memory for what the batch is decoded to, by what earlier ones have grown. A batch that was
// transformed has waited already; what it takes is corrected once it is known.
func (r *Reader) room(ctx context.Context, j *job) error {
	j.values.limit = maxTransform
	if b := r.srv.Budget; b != nil {
		j.values.limit = min(j.values.limit, b.limit)
	}
	if j.claim > 0 {
		return nil
	}
	var bytes int64
	for i := range j.tasks {
		bytes += j.tasks[i].size
	}
	claim := max(1, min(bytes*max(r.expansion.Load(), 1), j.values.limit))
	if err := r.tenant.claim(ctx, claim); err != nil {
		return err
	}
	j.claim = claim
	return nil
}

// settleDecoded corrects the batch's claim once it is decoded.
func (r *Reader) settleDecoded(j *job) {
	var in, out int64
	for i := range j.tasks {
		in += j.tasks[i].size
	}
	for i := range j.segs {
		out += int64(len(j.segs[i].data))
	}
	if grown := (j.values.total + in - 1) / max(in, 1); grown > r.expansion.Load() {
		r.expansion.Store(grown)
	}
	out = max(out, 1)
	r.tenant.resize(j.claim, out)
	j.claim = out
}

// decodeAll runs the job's tasks, cut into runs of some work each.
func (r *Reader) decodeAll(ctx context.Context, j *job) error {
	pool := &r.srv.decoders
	pool.ready()
	j.cuts = j.cuts[:0]
	var work int64
	for i := range j.tasks {
		t := &j.tasks[i]
		if work += t.decoder.Work(t.size) + 1<<8; work >= runWork || i == len(j.tasks)-1 {
			j.cuts = append(j.cuts, i+1)
			work = 0
		}
	}
	var next atomic.Int64
	one := func(ctx context.Context) error {
		for {
			k := int(next.Add(1)) - 1
			if k >= len(j.cuts) {
				return nil
			}
			from := 0
			if k > 0 {
				from = j.cuts[k-1]
			}
			select {
			case d := <-pool.free:
				err := r.decodeRun(j, d, j.tasks[from:j.cuts[k]])
				pool.free <- d // has room for every decoder
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	if len(j.cuts) == 1 {
		return one(ctx)
	}
	group, ctx := errgroup.WithContext(ctx)
	for range min(len(j.cuts), cap(pool.free)) {
		group.Go(func() error { return one(ctx) })
	}
	return group.Wait()
}

// decodeRun decodes a few fields; its error is the batch's, those of samples are in the tasks.
func (r *Reader) decodeRun(j *job, d *decoder, tasks []task) error {
	for i := range tasks {
		t := &tasks[i]
		src, err := r.source(j, d, t)
		if err == nil {
			t.values, err = t.decoder.Decode(src, &d.scratch, &j.values, t.values)
		}
		if errors.Is(err, errBatchTooLarge) {
			return api.Errorf(400, api.CodeBadRequest, "batch %d has more than %d bytes on this node once it is decoded; choose a smaller batch_size", j.frame.Index, j.values.limit)
		}
		t.err = err
		for i := range t.values {
			t.sums = append(t.sums, xxh3.Hash(t.values[i].Data))
		}
	}
	if cap(d.source) > keepSource {
		d.source = nil
	}
	return nil
}

// source is the verified bytes of a field. Values that are views on them have them in the job's memory.
func (r *Reader) source(j *job, d *decoder, t *task) ([]byte, error) {
	if t.shard == nil {
		return t.data, nil
	}
	if t.size > maxSource {
		return nil, &decode.Error{Column: t.decoder.Columns()[0], Reason: "it is larger than can be decoded (256 MiB)"}
	}
	var buf []byte
	if t.decoder.InPlace() {
		var err error
		if buf, err = j.values.Alloc(t.size); err != nil {
			return nil, err
		}
	} else {
		if int64(cap(d.source)) < t.size {
			d.source = make([]byte, t.size)
		}
		buf = d.source[:t.size]
	}
	for tries := 1; ; tries++ {
		// An error shows again below, where it gets its name.
		if _, err := t.shard.object.File().ReadAt(buf, t.off); err == nil && xxh3.Hash(buf) == t.sum {
			return buf, nil
		}
		if err := damageOf(t.shard, t.off, t.size, t.sum); err != nil {
			return nil, err
		}
		if tries == 2 {
			return nil, corrupt(t.shard, t.off, "a member reads differently each time")
		}
	}
}

// collect puts the decoded values into the frame.
func (r *Reader) collect(j *job) error {
	for i := range j.tasks {
		t := &j.tasks[i]
		if t.err != nil {
			err := t.err
			if t.shard != nil {
				err = shardError(r.order.Snapshot().Shard(t.shard.number), err)
			}
			j.failSample(t.sample, err)
			continue
		}
		for k, column := range t.decoder.Columns() {
			v := &t.values[k]
			if v.Absent {
				continue
			}
			field, err := j.field(column)
			if err != nil {
				return err
			}
			j.frame.Items = append(j.frame.Items, wire.Item{
				Sample: t.sample, Field: field, DType: v.DType, NDim: v.NDim, Dims: v.Dims, Size: int64(len(v.Data)), Sum: t.sums[k],
			})
			j.segs = append(j.segs, segment{data: v.Data})
		}
	}
	j.dropFailed()
	j.byField()
	r.settleDecoded(j)
	return r.keep(j)
}

// errBatchTooLarge ends a stream: its batches don't fit.
var errBatchTooLarge = errors.New("the batch is too large once it is decoded")

// pieceSize is how much memory small values share.
const pieceSize = 256 << 10

// values holds a batch's decoded values: small ones side by side in pieces, large ones by themselves. What
// one batch has used serves the next.
type values struct {
	mu     sync.Mutex
	limit  int64
	total  int64
	pieces [][]byte
	piece  int // in use
	used   int // of it
	large  [][]byte
	taken  int // of large
}

func (m *values) reset() { m.total, m.piece, m.used, m.taken = 0, 0, 0, 0 }

// drop lets the memory go where it is more than a job may keep between batches.
func (m *values) drop() {
	if m.total > keptBytes {
		m.pieces, m.large = nil, nil
	}
}

// Alloc is decode.Memory; it may be called from any goroutine.
func (m *values) Alloc(n int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.total += n; m.total > m.limit {
		return nil, errBatchTooLarge
	}
	if n > pieceSize/8 {
		return m.own(int(n)), nil
	}
	if m.piece < len(m.pieces) && m.used+int(n) > pieceSize {
		m.piece, m.used = m.piece+1, 0
	}
	if m.piece == len(m.pieces) {
		m.pieces = append(m.pieces, make([]byte, pieceSize))
	}
	b := m.pieces[m.piece][m.used:][:n:n]
	m.used += int(n)
	return b, nil
}

// own gives a large value memory of its own; what is much too large for it is given up.
func (m *values) own(n int) []byte {
	if m.taken == len(m.large) {
		m.large = append(m.large, nil)
	}
	b := &m.large[m.taken]
	if cap(*b) < n || cap(*b) > 8*n {
		*b = make([]byte, n)
	}
	m.taken++
	return (*b)[:n:n]
}
