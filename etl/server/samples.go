package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/samples"
)

// Bounds of the samples that are sent in one request at level sample. A batch is never cut.
const (
	chunkSamples = 64
	chunkBytes   = 8 << 20
)

// samples sends samples in as many requests as the server takes at once, a batch in one.
func (s *Server) samples(ctx context.Context, args etl.Args, in []etl.Sample, out []etl.Result) error {
	if len(in) != len(out) {
		return fmt.Errorf("etl %q: %d samples, room for %d results", s.def.Name, len(in), len(out))
	}
	merged, err := s.def.MergeArgs(args)
	if err != nil {
		return err
	}
	var (
		wait   sync.WaitGroup
		mu     sync.Mutex
		failed error
	)
	for from := 0; from < len(in); {
		to := from + s.chunk(in[from:], len(in))
		these, answers := in[from:to], out[from:to]
		wait.Go(func() {
			if err := s.send(ctx, merged, these, answers); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = err
			}
		})
		from = to
	}
	wait.Wait()
	return failed
}

// chunk is how many of the samples left go in one request.
func (s *Server) chunk(left []etl.Sample, all int) int {
	if s.def.Level == etl.LevelBatch {
		return len(left)
	}
	n := min(len(left), chunkSamples, max(1, (all+s.book.Workers()-1)/s.book.Workers()))
	var size int64
	for i := range n {
		if size += left[i].Size(); size > chunkBytes {
			return max(1, i)
		}
	}
	return n
}

// send sends some samples in one request. What goes wrong with it is the fault of each of them; the error returned
// means that the caller has ended, or the runtime.
func (s *Server) send(ctx context.Context, args etl.Args, in []etl.Sample, out []etl.Result) error {
	call, err := s.book.Begin(ctx)
	if err != nil {
		return err
	}
	body, size, err := samples.Encode(in)
	if err != nil {
		call.End(len(in), len(in))
		return blame(s.def.Name, in, out, err)
	}
	r := &request{
		server: s, call: call, name: in[0].Key, method: http.MethodPost, path: "/samples", query: query(args), contentType: samples.ContentType,
		size: size, limit: min(s.def.Limits.Output*int64(len(in)), etl.MaxHeld),
		patience: min(s.def.Timeout*time.Duration(len(in)), etl.MaxTimeout),
		again:    func() io.Reader { b := slices.Clone(body); return &b },
	}
	output, err := r.send()
	if err != nil {
		call.End(len(in), len(in))
		return blame(s.def.Name, in, out, err)
	}
	defer output.Body.Close()
	if output.ContentType != samples.ContentType {
		err = fmt.Errorf("the answer to POST /samples is of type %q, not %s", output.ContentType, samples.ContentType)
	} else {
		err = receive(s.def, output.Body, in, out)
	}
	failed := 0
	if err != nil {
		err = blame(s.def.Name, in, out, err)
	}
	for i := range out {
		if out[i].Err != nil {
			failed++
		}
	}
	call.End(len(in), failed)
	return err
}

// receive reads the answer, one result for each sample.
func receive(def etl.Definition, body io.Reader, in []etl.Sample, out []etl.Result) error {
	reader := samples.NewReader(body, samples.Limits{Samples: len(in), Payload: min(def.Limits.Output, etl.MaxHeld), Answer: true})
	for i := range in {
		result, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the answer has %d samples for %d", i, len(in))
		}
		if err != nil {
			return err
		}
		var fault *samples.Fault
		if errors.As(result.Err, &fault) {
			result.Err = &etl.UserError{ETL: def.Name, Key: in[i].Key, Summary: fault.Summary, Traceback: fault.Traceback}
		}
		if result.Key == "" {
			result.Key = in[i].Key
		}
		result.Seed = in[i].Seed
		out[i] = result
	}
	if _, err := reader.Next(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("the answer has more than %d samples", len(in))
		}
		return err
	}
	return nil
}

// blame makes an error that of every sample, unless it means that nothing goes on.
func blame(name string, in []etl.Sample, out []etl.Result, err error) error {
	if errors.Is(err, etl.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	for i := range in {
		fault := &etl.UserError{ETL: name, Key: in[i].Key, Summary: err.Error()}
		var user *etl.UserError
		if errors.As(err, &user) {
			fault.Summary, fault.Traceback = user.Summary, user.Traceback
		}
		out[i] = etl.Result{Sample: etl.Sample{Key: in[i].Key}, Err: fault}
	}
	return nil
}
