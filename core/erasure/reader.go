package erasure

import (
	"errors"
	"fmt"
	"io"
)

// NewReader makes a Reader of what verifies its bytes as they are read.
func NewReader(r io.ReadCloser) Reader { return &streamReader{r: r} }

type streamReader struct {
	r   io.ReadCloser
	buf *[]byte
}

func (s *streamReader) Next(n int) ([]byte, error) {
	if s.buf == nil || cap(*s.buf) < n {
		if s.buf != nil {
			memory.put(s.buf)
		}
		s.buf = memory.get(n)
	}
	p := (*s.buf)[:n]
	if m, err := io.ReadFull(s.r, p); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("after %d of %d bytes: %w", m, n, err)
	}
	return p, nil
}

func (s *streamReader) Close() error {
	if s.buf != nil {
		memory.put(s.buf)
		s.buf = nil
	}
	return s.r.Close()
}
