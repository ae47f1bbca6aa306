package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

const (
	// placedFrom is the payload from which a frame is written into the loader's memory; below, the loader's
	// answer takes longer than sending the bytes.
	placedFrom = 64 << 10
	// preadFrom is the size from which an item is read from its file by pread(2); below, a copy out of the
	// mapped file is cheaper than the call.
	preadFrom = 32 << 10
)

// errUnshared is a fault of sharing itself: the loader goes on over TCP.
var errUnshared = errors.New("share memory with the loader")

// sharing writes items into the memory of a loader on this machine: a copy from the page cache into the
// place where the trainer reads them, and none besides. The loader says where, in answer to each head;
// it owns the memory, and seals it against shrinking, so that no access here can fault by its doing.
type sharing struct {
	conn  *net.UnixConn
	known *memories
	slots map[int]*memory
	fixed [wire.PlacementSize]byte
	oob   []byte
	raw   []byte
	dst   []int64

	waited time.Duration // for placements
}

func newSharing(conn *net.UnixConn, known *memories) *sharing {
	return &sharing{conn: conn, known: known, slots: make(map[int]*memory), oob: make([]byte, unix.CmsgSpace(4))}
}

func (s *sharing) close() {
	for _, m := range s.slots {
		m.release()
	}
	s.slots = nil
}

// fill waits for the placement of a job's items and writes them there.
func (s *sharing) fill(j *job) (err error) {
	began := time.Now()
	mem, err := s.receive(j)
	s.waited += time.Since(began)
	if err != nil {
		return err
	}
	defer faults(&err)
	for i := range j.segs {
		if s.dst[i] == wire.Nowhere {
			continue
		}
		if err := j.segs[i].copyTo(mem, s.dst[i], j.frame.Items[i].Size); err != nil {
			return err
		}
	}
	return nil
}

// copyTo writes an item's bytes at an offset of a loader's memory.
func (seg *segment) copyTo(mem []byte, at, size int64) error {
	if at < 0 || at > int64(len(mem)) || size > int64(len(mem))-at {
		return fmt.Errorf("%w: an item of %d bytes was placed at %d of %d", errClient, size, at, len(mem))
	}
	dst := mem[at : at+size]
	if seg.shard != nil && size >= preadFrom {
		return pread(int(seg.shard.object.File().Fd()), dst, seg.off)
	}
	src, err := seg.bytes(size)
	copy(dst, src)
	return err
}

// pread fills dst, past the os package's bookkeeping.
func pread(fd int, dst []byte, off int64) error {
	for len(dst) > 0 {
		n, err := unix.Pread(fd, dst, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("%w: %w", errCut, err)
		case n == 0:
			return fmt.Errorf("%w: %w", errCut, io.ErrUnexpectedEOF)
		}
		dst, off = dst[n:], off+int64(n)
	}
	return nil
}

// receive reads the placement of a job's items, maps its slot as far as that has grown, and keeps the
// offsets.
func (s *sharing) receive(j *job) (mem []byte, err error) {
	fd, err := s.header()
	if err != nil {
		return nil, err
	}
	p, err := wire.ParsePlacement(s.fixed[:])
	if err != nil {
		closeFd(fd)
		return nil, fmt.Errorf("%w: %w", errClient, err)
	}
	if fd >= 0 {
		if err := s.learn(p.Slot, fd); err != nil {
			return nil, err
		}
	}
	if p.Index != j.frame.Index || p.Items != len(j.segs) { // before memory is taken for what it claims
		return nil, fmt.Errorf("%w: %d items of batch %d were placed, %d of batch %d were to be", errClient, p.Items, p.Index, len(j.segs), j.frame.Index)
	}
	if p.Size > 0 { // nothing is to be written otherwise
		slot := s.slots[p.Slot]
		if slot == nil {
			return nil, fmt.Errorf("%w: slot %d came without its memory", errClient, p.Slot)
		}
		if mem, err = slot.reach(p.Size); err != nil {
			return nil, err
		}
	}
	if need := 8 * p.Items; cap(s.raw) < need {
		s.raw = make([]byte, need)
	}
	raw := s.raw[:8*p.Items]
	if _, err := io.ReadFull(s.conn, raw); err != nil {
		return nil, fmt.Errorf("%w: %w", errClient, err)
	}
	s.dst = wire.ParseOffsets(raw, s.dst)
	return mem, nil
}

// learn takes a slot's memory over.
func (s *sharing) learn(slot, fd int) error {
	m, err := s.known.open(fd)
	if err != nil {
		return err
	}
	if old := s.slots[slot]; old != nil {
		old.release()
	}
	s.slots[slot] = m
	return nil
}

// header reads a placement's fixed part, and the descriptor that comes with it, -1 without one.
func (s *sharing) header() (fd int, err error) {
	fd = -1
	for at := 0; at < len(s.fixed); {
		n, control, flags, _, err := s.conn.ReadMsgUnix(s.fixed[at:], s.oob)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if control > 0 && err == nil {
			fd, err = descriptor(fd, s.oob[:control], flags)
		}
		if err != nil {
			closeFd(fd)
			return -1, fmt.Errorf("%w: %w", errClient, err)
		}
		at += n
	}
	return fd, nil
}

// descriptor takes the one descriptor of a control message.
func descriptor(had int, control []byte, flags int) (int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return had, err
	}
	fd, extra := had, flags&unix.MSG_CTRUNC != 0
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fd, err
		}
		for _, f := range fds {
			if fd >= 0 {
				closeFd(f)
				extra = true
				continue
			}
			fd = f
		}
	}
	if extra {
		return fd, errors.New("more than one descriptor in a placement")
	}
	return fd, nil
}

func closeFd(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// faults turns a fault on a mapped page that the disk can't give into an error; it is deferred.
func faults(err *error) {
	if r := recover(); r != nil {
		fault, ok := r.(interface{ Addr() uintptr })
		if !ok {
			panic(r)
		}
		*err = fmt.Errorf("%w: page at %#x can't be read", errCut, fault.Addr())
	}
}

// unshared makes the error that the loader is told.
func unshared(err error) error {
	if errors.Is(err, errUnshared) {
		return api.Errorf(503, wire.CodeUnshared, "%v", err)
	}
	return err
}
