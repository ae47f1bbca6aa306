package stream

import (
	"context"
	"errors"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/etl"
)

// transform reads the job's samples, verified, runs them through the pool and makes their frame.
func (r *Reader) transform(ctx context.Context, j *job) error {
	j.in, j.flds = j.in[:0], j.flds[:0]
	sent := j.found[:0]
	j.reserve()
	for _, f := range j.found {
		if err := r.input(j, f); err != nil {
			key := ""
			if f.shard.index != nil {
				key = f.shard.index.Key(f.index)
			}
			j.fail(f, key, shardError(r.order.Snapshot().Shard(f.shard.number), err))
			continue
		}
		sent = append(sent, f)
	}
	j.found = sent
	if cap(j.out) < len(j.in) {
		j.out = make([]etl.Result, len(j.in))
	}
	j.out = j.out[:len(j.in)]
	clear(j.out)
	if err := r.apply(ctx, j); err != nil {
		return err
	}
	for i, f := range j.found {
		if err := j.out[i].Err; err != nil {
			j.fail(f, j.in[i].Key, err)
			continue
		}
		r.output(j, f, &j.out[i].Sample)
	}
	j.byField()
	return nil
}

// reserve sizes the input buffers before views into them are handed out.
func (j *job) reserve() {
	var bytes int64
	var fields int
	for _, f := range j.found {
		if f.shard.err == nil {
			bytes += f.shard.index.SampleSize(f.index)
			_, count := f.shard.index.Sample(f.index)
			fields += count
		}
	}
	if int64(cap(j.data)) < bytes {
		j.data = make([]byte, bytes)
	}
	j.data = j.data[:0]
	if cap(j.flds) < fields {
		j.flds = make([]etl.Field, 0, fields)
	}
}

func (r *Reader) input(j *job, f found) error {
	if f.shard.err != nil {
		return f.shard.err
	}
	x := f.shard.index
	start := len(j.flds)
	first, count := x.Sample(f.index)
	for m := first; m < first+count; m++ {
		member := x.Member(m)
		at := len(j.data)
		j.data = j.data[:at+int(member.Size)]
		buf := j.data[at:]
		if err := readItem(f.shard, buf, member.Offset, member.Sum); err != nil {
			j.flds = j.flds[:start]
			return err
		}
		j.flds = append(j.flds, etl.Field{Name: x.Field(m), Value: etl.BytesValue(buf[:len(buf):len(buf)])})
	}
	j.in = append(j.in, etl.Sample{Key: x.Key(f.index), Seed: seedOf(r.req.Seed, r.req.Epoch, f.number), Fields: j.flds[start:len(j.flds):len(j.flds)]})
	return nil
}

// apply runs the pool; a definition that was replaced meanwhile is looked up once more.
func (r *Reader) apply(ctx context.Context, j *job) error {
	err := r.pool.Transform(ctx, j.in, j.out)
	if errors.Is(err, etl.ErrClosed) {
		if r.pool, err = r.srv.ETLs.Pool(r.req.ETL); err != nil {
			return err
		}
		err = r.pool.Transform(ctx, j.in, j.out)
	}
	var user *etl.UserError
	if errors.As(err, &user) {
		return api.Errorf(422, api.CodeETLFailed, "%v", err)
	}
	return err
}

func (r *Reader) output(j *job, f found, s *etl.Sample) {
	sample := j.add(f, s.Key)
	for i := range s.Fields {
		v := &s.Fields[i].Value
		if !r.wants(s.Fields[i].Name) {
			continue
		}
		if len(v.Shape) > wire.MaxDims {
			j.failAdded(sample, api.CodeETLFailed, "field "+s.Fields[i].Name+" has more than 8 dimensions")
			break
		}
		it := wire.Item{Sample: sample, Field: j.frame.Field(s.Fields[i].Name), DType: uint8(v.DType), Size: int64(len(v.Data)), Sum: xxh3.Hash(v.Data)}
		if wire.IsArray(it.DType) {
			it.NDim = uint8(len(v.Shape))
			copy(it.Dims[:], v.Shape)
		}
		j.frame.Items = append(j.frame.Items, it)
		j.segs = append(j.segs, segment{data: v.Data})
	}
	j.dropFailedTail(sample)
}

func (j *job) failAdded(sample int, code, message string) {
	s := &j.frame.Samples[sample]
	s.Failed, s.Code, s.Message = true, []byte(code), []byte(message)
}

// dropFailedTail removes the items of the last sample if it failed.
func (j *job) dropFailedTail(sample int) {
	if !j.frame.Samples[sample].Failed {
		return
	}
	n := len(j.frame.Items)
	for n > 0 && j.frame.Items[n-1].Sample == sample {
		n--
	}
	j.frame.Items, j.segs = j.frame.Items[:n], j.segs[:n]
}
