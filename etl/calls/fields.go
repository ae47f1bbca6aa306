package calls

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/shardstream/shardstream/etl"
)

// Fields applies an object-level transformation to samples: to the fields that the definition names, or to the only one
// that a sample has. apply runs for several fields at once, as many as workers.
func Fields(ctx context.Context, def etl.Definition, workers int, in []etl.Sample, out []etl.Result, apply func(ctx context.Context, name string, data []byte) ([]byte, error)) error {
	if len(in) != len(out) {
		return fmt.Errorf("etl %q: %d samples, room for %d results", def.Name, len(in), len(out))
	}
	var wait sync.WaitGroup
	places := make(chan struct{}, workers)
	for i := range in {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			wait.Wait()
			return ctx.Err()
		}
		wait.Go(func() {
			defer func() { <-places }()
			out[i] = sample(ctx, def, &in[i], apply)
		})
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for i := range out {
		if isClosed(out[i].Err) {
			return etl.ErrClosed
		}
	}
	return nil
}

func sample(ctx context.Context, def etl.Definition, in *etl.Sample, apply func(context.Context, string, []byte) ([]byte, error)) etl.Result {
	names := def.Fields
	if len(names) == 0 {
		if len(in.Fields) != 1 {
			return etl.Result{Sample: etl.Sample{Key: in.Key}, Err: &etl.UserError{
				ETL: def.Name, Key: in.Key,
				Summary: fmt.Sprintf("it works on whole objects, and the sample has %d fields (%s): name those that it shall have in the definition's fields", len(in.Fields), fieldNames(in)),
			}}
		}
		names = []string{in.Fields[0].Name}
	}
	for _, name := range names {
		if _, ok := in.Field(name); !ok {
			return etl.Result{Sample: etl.Sample{Key: in.Key}, Err: &etl.UserError{
				ETL: def.Name, Key: in.Key, Summary: fmt.Sprintf("the sample has no field %q, only %s", name, fieldNames(in)),
			}}
		}
	}
	result := etl.Result{Sample: etl.Sample{Key: in.Key, Seed: in.Seed, Fields: slices.Clone(in.Fields)}}
	for i := range result.Fields {
		field := &result.Fields[i]
		if !slices.Contains(names, field.Name) {
			// Results own their memory: what is passed on unchanged too.
			field.Value.Data = slices.Clone(field.Value.Data)
			continue
		}
		data, err := apply(ctx, in.Key+"."+field.Name, field.Value.Data)
		if err != nil {
			return etl.Result{Sample: etl.Sample{Key: in.Key}, Err: err}
		}
		field.Value = etl.BytesValue(data)
	}
	return result
}

func fieldNames(s *etl.Sample) string {
	names := make([]string, len(s.Fields))
	for i := range s.Fields {
		names[i] = s.Fields[i].Name
	}
	return strings.Join(names, ", ")
}
