package target

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"syscall"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
)

// spoolMemory is how much of an output is held in memory before it goes to a file.
const spoolMemory = 4 << 20

// spool takes an output while it is made, so that only a complete one is sent anywhere: with its length and checksum,
// and again where the receiver was away. A large one lies in a file that has no name, so that nothing is left of it
// when the process dies.
type spool struct {
	dir    string
	memory bytes.Buffer
	file   *os.File
	size   int64
	sum    *xxh3.Hasher
}

func newSpool(dir string) *spool { return &spool{dir: dir, sum: xxh3.New()} }

// Write implements io.Writer.
func (s *spool) Write(p []byte) (int, error) {
	_, _ = s.sum.Write(p)
	s.size += int64(len(p))
	if s.file == nil && s.size <= spoolMemory {
		return s.memory.Write(p)
	}
	if s.file == nil {
		if err := s.toFile(); err != nil {
			return 0, spoolError(s.dir, err)
		}
	}
	n, err := s.file.Write(p)
	return n, spoolError(s.dir, err)
}

func (s *spool) toFile() error {
	file, err := os.CreateTemp(s.dir, "output-*")
	if err != nil {
		return err
	}
	s.file = file
	if err := os.Remove(file.Name()); err != nil {
		return err
	}
	_, err = file.Write(s.memory.Bytes())
	s.memory = bytes.Buffer{}
	return err
}

func spoolError(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return api.Errorf(http.StatusInsufficientStorage, api.CodeNoSpace, "no room for an output in the making in %s; delete objects or add a disk", dir)
	}
	if err != nil {
		return fmt.Errorf("keep an output: %w", err)
	}
	return nil
}

// Reader reads all from the beginning.
func (s *spool) Reader() io.Reader {
	if s.file != nil {
		return io.NewSectionReader(s.file, 0, s.size)
	}
	return bytes.NewReader(s.memory.Bytes())
}

// Sum is the checksum of all.
func (s *spool) Sum() uint64 { return s.sum.Sum64() }

// Close lets it go.
func (s *spool) Close() error {
	if s.file != nil {
		return s.file.Close()
	}
	return nil
}
