package target

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
)

// maxTransformed is the largest piece of data that is taken into memory to be transformed, or comes out of that: an
// object that is a sample, a sample of an archive, a batch of transformed samples.
const maxTransformed = 256 << 20

// run starts the chain. Reading the output's body can fail as the call can; the caller closes it.
func (x *inline) run(ctx context.Context) (*etl.Output, error) {
	if x.chain.level != etl.LevelObject {
		return x.runSamples(ctx)
	}
	source := &sectionReader{object: x.section.Object, off: x.section.Offset, end: x.section.Offset + x.section.Size}
	output := &chainOutput{stall: x.stall, source: source}
	object := x.object(source)
	var last *etl.Output
	for i := range x.chain.links {
		l := &x.chain.links[i]
		stop := x.stall.watch()
		out, err := l.runtime.TransformObject(ctx, l.args, object)
		stop()
		if err != nil {
			_ = output.Close()
			return nil, source.blame(err)
		}
		output.bodies = append(output.bodies, out.Body)
		object.Size, object.Body, object.Derived, last = out.Size, out.Body, true, out
	}
	contentType := last.ContentType
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	return &etl.Output{Body: output, Size: last.Size, ContentType: contentType}, nil
}

// chainOutput is what comes out of the last transformation of a chain.
type chainOutput struct {
	stall  *stall
	source *sectionReader
	bodies []io.ReadCloser // of each transformation; the last one is read
}

func (o *chainOutput) Read(p []byte) (int, error) {
	defer o.stall.watch()()
	n, err := o.bodies[len(o.bodies)-1].Read(p)
	if err != nil && !isEOF(err) {
		err = o.source.blame(err)
	}
	return n, err
}

// Close closes the bodies from the last one on: each reads the one before it.
func (o *chainOutput) Close() error {
	var failed error
	for i := len(o.bodies) - 1; i >= 0; i-- {
		failed = errors.Join(failed, o.bodies[i].Close())
	}
	o.bodies = nil
	return failed
}

// sectionReader reads a section, verified.
type sectionReader struct {
	object   *store.Object
	off, end int64
	ahead    []byte // read and not yet given, for callers that read little at a time
	buffer   []byte
	failed   error
}

// readAhead is what is read at once for callers that want less than the store verifies at once.
const readAhead = 256 << 10

func (s *sectionReader) Read(p []byte) (int, error) {
	if len(s.ahead) > 0 {
		n := copy(p, s.ahead)
		s.ahead = s.ahead[n:]
		return n, nil
	}
	left := s.end - s.off
	switch {
	case s.failed != nil:
		return 0, s.failed
	case left == 0:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	case int64(len(p)) >= min(left, readAhead):
		return s.fill(p[:min(left, int64(len(p)))])
	}
	if s.buffer == nil {
		s.buffer = make([]byte, min(left, readAhead))
	}
	n, err := s.fill(s.buffer[:min(left, readAhead)])
	if err != nil {
		return 0, err
	}
	s.ahead = s.buffer[:n]
	return s.Read(p)
}

func (s *sectionReader) fill(p []byte) (int, error) {
	if s.failed = readFull(s.object, p, s.off); s.failed != nil {
		return 0, s.failed
	}
	s.off += int64(len(p))
	return len(p), nil
}

// blame finds the reason of a failure: where the object could not be read, that is what a transformation fell over.
func (s *sectionReader) blame(err error) error {
	if s.failed != nil {
		return s.failed
	}
	return err
}

func tooLargeToTransform(what string, size int64) error {
	return api.Errorf(http.StatusRequestEntityTooLarge, api.CodeBadRequest,
		"%s has %d bytes, more than the %d that can be transformed at once", what, size, maxTransformed)
}
