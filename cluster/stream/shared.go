package stream

import (
	"errors"
	"fmt"
	"io"
	"net"

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
	slots map[int]*loaderSlot
	fixed [wire.PlacementSize]byte
	oob   []byte
	raw   []byte
	dst   []int64
}

// loaderSlot is a mapped slot of the loader's arena.
type loaderSlot struct {
	fd  int
	mem []byte
}

func newSharing(conn *net.UnixConn) *sharing {
	return &sharing{conn: conn, slots: make(map[int]*loaderSlot), oob: make([]byte, unix.CmsgSpace(4))}
}

func (s *sharing) close() {
	for _, slot := range s.slots {
		slot.close()
	}
	s.slots = nil
}

func (l *loaderSlot) close() {
	if l.mem != nil {
		_ = unix.Munmap(l.mem)
	}
	_ = unix.Close(l.fd)
}

// fill waits for the placement of a job's items and writes them there.
func (s *sharing) fill(j *job) (err error) {
	p, slot, err := s.receive()
	if err != nil {
		return err
	}
	if p.Index != j.frame.Index || p.Items != len(j.segs) {
		return fmt.Errorf("%w: %d items of batch %d were placed, %d of batch %d were to be", errClient, p.Items, p.Index, len(j.segs), j.frame.Index)
	}
	defer faults(&err)
	for i := range j.segs {
		if s.dst[i] == wire.Nowhere {
			continue
		}
		if err := j.segs[i].copyTo(slot.mem, s.dst[i], j.frame.Items[i].Size); err != nil {
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
	switch {
	case seg.shard == nil:
		copy(dst, seg.data)
	case size < preadFrom:
		src, err := seg.shard.bytes(seg.off, size)
		if err != nil {
			return fmt.Errorf("%w: %w", errCut, err)
		}
		copy(dst, src)
	default:
		return pread(int(seg.shard.object.File().Fd()), dst, seg.off)
	}
	return nil
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

// receive reads a placement, maps its slot as far as that has grown, and keeps the offsets.
func (s *sharing) receive() (wire.Placement, *loaderSlot, error) {
	fd, err := s.header()
	if err != nil {
		return wire.Placement{}, nil, err
	}
	p, err := wire.ParsePlacement(s.fixed[:])
	if err != nil {
		closeFd(fd)
		return p, nil, fmt.Errorf("%w: %w", errClient, err)
	}
	if fd >= 0 {
		if old := s.slots[p.Slot]; old != nil {
			old.close()
		}
		s.slots[p.Slot] = &loaderSlot{fd: fd}
	}
	slot := s.slots[p.Slot]
	if slot == nil {
		return p, nil, fmt.Errorf("%w: slot %d came without its memory", errClient, p.Slot)
	}
	if err := slot.reach(p.Size); err != nil {
		return p, nil, err
	}
	if need := 8 * p.Items; cap(s.raw) < need {
		s.raw = make([]byte, need)
	}
	raw := s.raw[:8*p.Items]
	if _, err := io.ReadFull(s.conn, raw); err != nil {
		return p, nil, fmt.Errorf("%w: %w", errClient, err)
	}
	s.dst = wire.ParseOffsets(raw, s.dst)
	return p, slot, nil
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

// reach maps the slot up to size. Only memory that can't shrink is mapped: a loader that took pages away
// would end this process otherwise.
func (l *loaderSlot) reach(size int64) error {
	if size <= int64(len(l.mem)) {
		return nil
	}
	seals, err := unix.FcntlInt(uintptr(l.fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return fmt.Errorf("%w: its seals: %w", errUnshared, err)
	}
	if seals&unix.F_SEAL_SHRINK == 0 {
		return fmt.Errorf("%w: its memory is not sealed against shrinking", errUnshared)
	}
	var st unix.Stat_t
	if err := unix.Fstat(l.fd, &st); err != nil {
		return fmt.Errorf("%w: its size: %w", errUnshared, err)
	}
	if st.Size < size {
		return fmt.Errorf("%w: a slot of %d bytes has %d", errUnshared, size, st.Size)
	}
	if l.mem != nil {
		_ = unix.Munmap(l.mem)
		l.mem = nil
	}
	mem, err := unix.Mmap(l.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("%w: map a slot of %d bytes: %w", errUnshared, size, err)
	}
	// Large pages, where the loader has them: a fault each 2 MiB instead of each 4 KiB.
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	l.mem = mem
	return nil
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
