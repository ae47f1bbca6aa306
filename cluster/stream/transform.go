package stream

import (
	"context"
	"errors"
	"unsafe"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/etl"
)

// maxTransform bounds the bytes of a batch that a target reads into memory for a transformation.
const maxTransform = 2 << 30

// Arrays of as many dimensions as a function may return fit a frame.
var _ [wire.MaxDims - etl.MaxDims]struct{}

// transform reads samples, verified, runs them through their transformations and adds them to the job's frame. They
// come sorted by these.
func (r *Reader) transform(ctx context.Context, j *job, samples []found) error {
	j.in, j.flds = j.in[:0], j.flds[:0]
	sent := samples[:0]
	if err := r.reserve(ctx, j, samples); err != nil {
		return err
	}
	for _, f := range samples {
		if err := r.input(j, f); err != nil {
			key := r.nameOf(f)
			if f.shard.index != nil {
				key = f.shard.index.Key(f.index)
			}
			j.fail(f, key, shardError(r.order.Snapshot().Shard(f.shard.number), err))
			continue
		}
		sent = append(sent, f)
	}
	if cap(j.out) < len(j.in) {
		j.out = make([]etl.Result, len(j.in))
	}
	j.out = j.out[:len(j.in)]
	clear(j.out)
	j.clock.lap(&j.work.Read)
	if err := r.applyAll(ctx, j, sent); err != nil {
		return err
	}
	j.clock.lap(&j.work.ETL)
	for i, f := range sent {
		if err := j.out[i].Err; err != nil {
			j.fail(f, j.in[i].Key, err)
			continue
		}
		if err := r.output(j, f, &j.out[i].Sample); err != nil {
			return err
		}
	}
	r.settle(j)
	j.clock.lap(&j.work.Plan)
	return nil
}

// settle corrects the batch's claim once its output is there, and lets its input go.
func (r *Reader) settle(j *job) {
	var out, made int64
	for i := range j.segs {
		n := int64(len(j.segs[i].data))
		if out += n; !within(j.segs[i].data, j.data) {
			made += n
		}
	}
	if in := int64(len(j.data)); in > 0 {
		r.growth = max(r.growth, float64(out)/float64(in))
	}
	read := int64(cap(j.data))
	if read > keptBytes {
		j.data = nil
	}
	clear(j.in)
	clear(j.flds)   // which are views on it
	if made < out { // a function has returned some of what it was given: all of that stays
		out = made + read
	}
	out = max(out, 1)
	r.tenant.resize(j.claim, out)
	j.claim = out
}

// within says whether data lies in a block.
func within(data, block []byte) bool {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(data)))
	start := uintptr(unsafe.Pointer(unsafe.SliceData(block)))
	return len(data) > 0 && at >= start && at < start+uintptr(cap(block))
}

// reserve waits for memory for the batch, and sizes the input buffers before views into them are handed out.
func (r *Reader) reserve(ctx context.Context, j *job, samples []found) error {
	var bytes int64
	var fields int
	for _, f := range samples {
		if f.shard.err == nil {
			first, count := f.shard.index.Sample(f.index)
			last := f.shard.index.Member(first + count - 1)
			bytes += last.Offset + last.Size - f.shard.index.Member(first).Offset
			fields += count
		}
	}
	if bytes > maxTransform {
		return api.Errorf(400, api.CodeBadRequest, "batch %d has %d bytes on this node to be transformed at once, at most %d are possible; choose a smaller batch_size", j.frame.Index, bytes, int64(maxTransform))
	}
	claim := max(1, bytes+min(int64(float64(bytes)*r.growth), maxTransform))
	if b := r.srv.Budget; b != nil {
		if bytes > b.limit {
			return api.Errorf(400, api.CodeBadRequest, "batch %d has %d bytes on this node to be transformed at once, at most %d are possible (half of --stream-memory); choose a smaller batch_size", j.frame.Index, bytes, b.limit)
		}
		claim = min(claim, b.limit)
	}
	if err := r.tenant.claim(ctx, claim); err != nil {
		return err
	}
	j.claim = claim
	if int64(cap(j.data)) < bytes {
		j.data = make([]byte, bytes)
	}
	j.data = j.data[:0]
	if cap(j.flds) < fields {
		j.flds = make([]etl.Field, 0, fields)
	}
	return nil
}

// input reads a sample in one piece, verified, and makes its fields views on it.
func (r *Reader) input(j *job, f found) error {
	if f.shard.err != nil {
		return f.shard.err
	}
	x, end := f.shard.index, len(j.data)
	span, base, err := f.shard.sample(f.index, j.data[end:cap(j.data)])
	if err != nil {
		return f.shard.whichBlock(f.index, err)
	}
	j.data = j.data[:end+len(span)]
	start := len(j.flds)
	first, count := x.Sample(f.index)
	for m := first; m < first+count; m++ {
		member := x.Member(m)
		from, to := member.Offset-base, member.Offset-base+member.Size
		j.flds = append(j.flds, etl.Field{Name: x.Field(m), Value: etl.BytesValue(span[from:to:to])})
	}
	j.in = append(j.in, etl.Sample{Key: x.Key(f.index), Seed: seedOf(r.req.Seed, f.draw.Pass, f.draw.Sample), Fields: j.flds[start:len(j.flds):len(j.flds)]})
	return nil
}

// whichBlock makes the error of a sample that is damaged name the very block.
func (sh *shard) whichBlock(sample int, err error) error {
	first, count := sh.index.Sample(sample)
	for m := first; m < first+count; m++ {
		member := sh.index.Member(m)
		if exact := sh.object.VerifyRange(member.Offset, member.Size); exact != nil {
			return exact
		}
	}
	return err
}

// applyAll runs the transformations of the job's inputs, all at once: each has workers of its own.
func (r *Reader) applyAll(ctx context.Context, j *job, sent []found) error {
	group, ctx := errgroup.WithContext(ctx)
	for from, to := 0, 0; from < len(sent); from = to {
		x := r.through(sent[from])
		for to = from + 1; to < len(sent) && r.through(sent[to]) == x; to++ {
		}
		in, out := j.in[from:to], j.out[from:to]
		group.Go(func() error { return r.apply(ctx, x, in, out) })
	}
	return group.Wait()
}

// apply runs the steps of a transformation, each on what the one before it made; a sample that fails at one goes no
// further.
func (r *Reader) apply(ctx context.Context, x *transformation, in []etl.Sample, out []etl.Result) error {
	if err := r.applyStep(ctx, &x.steps[0], in, out); err != nil {
		return err
	}
	var next []etl.Sample
	var at []int // of next, in out
	for i := 1; i < len(x.steps); i++ {
		next, at = next[:0], at[:0]
		for k := range out {
			if out[k].Err == nil {
				sample := out[k].Sample
				sample.Seed = seedOf(in[k].Seed, uint64(i), 0) // its own numbers, not those of the step before
				next, at = append(next, sample), append(at, k)
			}
		}
		results := make([]etl.Result, len(next))
		if err := r.applyStep(ctx, &x.steps[i], next, results); err != nil {
			return err
		}
		for k := range results {
			out[at[k]] = results[k]
		}
	}
	return nil
}

// applyStep runs one step; a definition that was replaced meanwhile is looked up once more.
func (r *Reader) applyStep(ctx context.Context, x *step, in []etl.Sample, out []etl.Result) error {
	err := x.runtime.Transform(ctx, x.Args, in, out)
	if errors.Is(err, etl.ErrClosed) {
		if x.runtime, err = r.srv.runtime(x.Name); err != nil {
			return err
		}
		err = x.runtime.Transform(ctx, x.Args, in, out)
	}
	var user *etl.UserError
	var form *etl.DefinitionError
	switch {
	case errors.As(err, &user):
		return api.Errorf(422, api.CodeETLFailed, "%v", err)
	case errors.As(err, &form):
		return api.Errorf(400, api.CodeBadRequest, "%v", err)
	}
	return err
}

// output adds a transformed sample.
func (r *Reader) output(j *job, f found, s *etl.Sample) error {
	sample := j.add(f, s.Key)
	for i := range s.Fields {
		v := &s.Fields[i].Value
		if !r.wants(s.Fields[i].Name) {
			continue
		}
		if d := r.decode.Decoder(s.Fields[i].Name); d != nil {
			j.outputField(sample, s.Fields[i].Name, v, d)
			continue
		}
		if r.decode.Makes(s.Fields[i].Name) {
			r.clash(j, sample, s.Fields[i].Name)
			continue
		}
		number, err := j.field(s.Fields[i].Name)
		if err != nil {
			return err
		}
		it := wire.Item{Sample: sample, Field: number, DType: uint8(v.DType), Size: int64(len(v.Data)), Sum: xxh3.Hash(v.Data)}
		if wire.IsArray(it.DType) {
			it.NDim = uint8(len(v.Shape))
			copy(it.Dims[:], v.Shape)
		}
		j.frame.Items = append(j.frame.Items, it)
		j.segs = append(j.segs, segment{data: v.Data})
	}
	return nil
}
