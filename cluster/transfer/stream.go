package transfer

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/shardstream/shardstream/core/backend"
)

// stream is a side with one file that can be read but once: standard input, or a pipe.
type stream struct {
	reader io.Reader // nil once it was opened
}

// String is nothing: the file's name says all.
func (s *stream) String() string { return "" }

func (s *stream) Sites() []Site { return nil }

func (s *stream) List(context.Context, string) iter.Seq2[File, error] {
	return func(func(File, error) bool) {}
}

func (s *stream) Stat(_ context.Context, name string) (File, error) {
	return File{Entry: backend.Entry{Name: name, Size: -1}}, nil
}

func (s *stream) Open(_ context.Context, name string, offset int64, _ string) (io.ReadCloser, error) {
	if s.reader == nil || offset != 0 {
		return nil, failure(s, "read", name, backend.Unsupported, errors.New("it can be read only once"))
	}
	reader := s.reader
	s.reader = nil
	return io.NopCloser(reader), nil
}

func (s *stream) Put(context.Context, string, *Body, int64, PutOptions) (File, error) {
	return File{}, errors.ErrUnsupported
}

func (s *stream) Delete(context.Context, string) error { return errors.ErrUnsupported }

func (s *stream) Close() error { return nil }
