package etl

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
)

// TransformFields applies an object-level runtime to samples: those fields that its definition names are replaced by
// what it makes of them, the others stay. At most so many objects are with the runtime at a time.
func TransformFields(ctx context.Context, runtime Runtime, parallel int, args Args, in []Sample, out []Result) error {
	def := runtime.Definition()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, parallel))
	for i := range in {
		group.Go(func() error {
			fields, err := transformFields(ctx, runtime, def, args, &in[i])
			if err != nil && (ctx.Err() != nil || !ofSample(err)) {
				return err
			}
			out[i] = Result{Sample: Sample{Key: in[i].Key, Seed: in[i].Seed, Fields: fields}, Err: err}
			return nil
		})
	}
	return group.Wait()
}

// transformFields makes the fields of one sample.
func transformFields(ctx context.Context, runtime Runtime, def Definition, args Args, s *Sample) ([]Field, error) {
	fields := slices.Clone(s.Fields)
	for i := range fields {
		f := &fields[i]
		if !slices.Contains(def.Fields, f.Name) {
			continue
		}
		if f.Value.DType.Dense() {
			return nil, &UserError{ETL: def.Name, Key: s.Key, Summary: fmt.Sprintf("field %q is %s, and only bytes can be given to an object-level transformation", f.Name, f.Value.DType)}
		}
		object := Object{Key: s.Key + "." + f.Name, Size: int64(len(f.Value.Data)), Body: bytes.NewBuffer(f.Value.Data)}
		answer, err := runtime.TransformObject(ctx, args, object)
		if err != nil {
			return nil, err
		}
		data, err := answer.ReadAll(object.Key, def.Limits.Output)
		if err != nil {
			return nil, err
		}
		f.Value = BytesValue(data)
	}
	return fields, nil
}
