package stream

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idleMemory is how long a slot stays mapped after the last stream into it: a loader opens the streams
	// of its next epoch within that, and mapping anew costs a fault for each page.
	idleMemory = 5 * time.Second
	// maxIdleMemories bounds the slots that are kept so.
	maxIdleMemories = 256
	// maxMaps bounds how often a slot is mapped as it grows: a loader lets it grow by half at least.
	maxMaps = 64
)

// memories are the slots of loaders that this process has mapped, each once however many streams write to
// it. The zero value is ready.
type memories struct {
	mu    sync.Mutex
	all   map[inode]*memory
	idle  int
	timer *time.Timer
}

// inode names a memfd for as long as somebody has it open.
type inode struct{ dev, ino uint64 }

// memory is a mapped slot.
type memory struct {
	owner *memories
	name  inode
	fd    int
	maps  [][]byte // the last one is the largest; streams may still write through earlier ones
	refs  int
	since time.Time // without a stream
}

// open takes a descriptor over and returns the slot behind it, with a reference that release gives back.
func (s *memories) open(fd int) (*memory, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%w: %w", errUnshared, err)
	}
	name := inode{st.Dev, st.Ino}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.all[name]; m != nil {
		_ = unix.Close(fd)
		if m.refs == 0 {
			s.idle--
		}
		m.refs++
		return m, nil
	}
	if s.all == nil {
		s.all = make(map[inode]*memory)
	}
	m := &memory{owner: s, name: name, fd: fd, refs: 1}
	s.all[name] = m
	return m, nil
}

// reach maps the slot up to size at least. Only memory that can't shrink is mapped: a loader that took
// pages away would end this process otherwise.
func (m *memory) reach(size int64) ([]byte, error) {
	m.owner.mu.Lock()
	defer m.owner.mu.Unlock()
	if n := len(m.maps); n > 0 && int64(len(m.maps[n-1])) >= size {
		return m.maps[n-1], nil
	}
	if len(m.maps) == maxMaps {
		return nil, fmt.Errorf("%w: a slot grew %d times", errUnshared, maxMaps)
	}
	seals, err := unix.FcntlInt(uintptr(m.fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: its seals: %w", errUnshared, err)
	}
	if seals&unix.F_SEAL_SHRINK == 0 {
		return nil, fmt.Errorf("%w: its memory is not sealed against shrinking", errUnshared)
	}
	var st unix.Stat_t
	if err := unix.Fstat(m.fd, &st); err != nil {
		return nil, fmt.Errorf("%w: its size: %w", errUnshared, err)
	}
	if st.Size < size {
		return nil, fmt.Errorf("%w: a slot of %d bytes has %d", errUnshared, size, st.Size)
	}
	mem, err := unix.Mmap(m.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("%w: map a slot of %d bytes: %w", errUnshared, size, err)
	}
	// Large pages, where the loader's memory has them.
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	m.maps = append(m.maps, mem)
	return mem, nil
}

// release gives a reference back.
func (m *memory) release() {
	s := m.owner
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.refs--; m.refs > 0 {
		return
	}
	s.idle++
	m.since = time.Now()
	s.pruneLocked(m.since)
	if s.timer == nil && s.idle > 0 {
		s.timer = time.AfterFunc(idleMemory, s.prune)
	}
}

func (s *memories) prune() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
	now := time.Now()
	s.pruneLocked(now)
	if s.idle > 0 {
		s.timer = time.AfterFunc(idleMemory, s.prune)
	}
}

// pruneLocked unmaps what was idle for long, and any idle ones beyond what is kept.
func (s *memories) pruneLocked(now time.Time) {
	for name, m := range s.all {
		if m.refs == 0 && (now.Sub(m.since) >= idleMemory || s.idle > maxIdleMemories) {
			for _, mem := range m.maps {
				_ = unix.Munmap(mem)
			}
			_ = unix.Close(m.fd)
			delete(s.all, name)
			s.idle--
		}
	}
}
