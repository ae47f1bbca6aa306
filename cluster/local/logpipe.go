package local

import (
	"io"
	"os"
	"time"
)

// drainTime is how long close waits for the last lines.
const drainTime = 200 * time.Millisecond

// logPipe carries the output of a node's processes to its log.
type logPipe struct {
	reader, writer *os.File
	done           chan struct{}
}

func newLogPipe(to io.Writer) (*logPipe, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &logPipe{reader: reader, writer: writer, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_, _ = io.Copy(to, reader) // ends when close closes the last writer, or the reader
	}()
	return p, nil
}

// close drains what was written so far and ends the copying, even where a process that a node left
// behind holds the pipe still.
func (p *logPipe) close() {
	_ = p.writer.Close()
	select {
	case <-p.done:
	case <-time.After(drainTime):
	}
	_ = p.reader.Close()
	<-p.done
}
