package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

const (
	sendBuffer = 512 << 10
	// firstBuffer is what the buffer begins with. It grows with what goes through it: a target of a large
	// job has thousands of streams, each of which sends it a few heads at a time.
	firstBuffer = 8 << 10
	// sendfileFrom is the size from which an item goes from the page cache to the socket without passing
	// through this process; below, a copy is cheaper than the call (measured: equal at about 24 kB, 1.5
	// times at 32 kB, twice at 110 kB).
	sendfileFrom = 32 << 10
	// vectorFrom is the size from which an item is sent from where it is mapped, by writev(2) together with
	// those beside it; below, a copy into the buffer costs less than its entry in the vector.
	vectorFrom = 4 << 10
	maxVectors = 512 // of one call
)

// errClient wraps errors of the connection: there is nobody to tell. errCut wraps errors of the disk in
// the middle of a frame, where nothing can be told any more: the loader asks again, verified.
var (
	errClient = errors.New("client connection")
	errCut    = errors.New("read shard")
)

// unwrapper is implemented by connections that an HTTP server has wrapped.
type unwrapper interface{ UnsafeConn() net.Conn }

// sender writes frames: small things through one buffer, larger ones from where they lie, by writev(2), and
// large file ranges by sendfile(2).
type sender struct {
	conn   net.Conn
	raw    syscall.RawConn // nil where the connection is no TCP socket
	buf    []byte
	vector net.Buffers // what is to be sent as it lies; the buffer, unless it is empty, comes first
	queued int         // bytes of the vector
	shared *sharing    // nil where payloads go through the connection
	tenant *tenant     // is told of writes, which may wait for the client

	compress compressor

	// State of the sendfile call under way; transfer is made once, so that a call allocates nothing.
	in       int
	off      int64
	left     int64
	err      error
	transfer func(fd uintptr) bool

	full   time.Duration // waited for the connection to take more
	fullAt time.Time     // when sendfile found it full; zero while it is not
}

func newSender(nc net.Conn, compress string) (*sender, error) {
	if u, ok := nc.(unwrapper); ok {
		nc = u.UnsafeConn()
	}
	s := &sender{conn: nc, buf: make([]byte, 0, firstBuffer), compress: compressor{mode: compress}}
	s.transfer = s.sendfile
	if err := nc.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("%w: %w", errClient, err)
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return s, nil
	}
	var err error
	if s.raw, err = tcp.SyscallConn(); err != nil {
		return nil, fmt.Errorf("%w: %w", errClient, err)
	}
	if ip, ok := tcp.RemoteAddr().(*net.TCPAddr); ok && ip.IP.IsLoopback() {
		// A host's default may pace (bbr) even where nothing is between the ends.
		err = s.raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
		})
	}
	return s, err
}

// interrupt ends a blocked write.
func (s *sender) interrupt() { _ = s.conn.SetDeadline(time.Unix(1, 0)) }

// batch writes a job's frame. A page of a mapped shard that the disk can't give arrives as a fault,
// which becomes an error here. Of a placed frame only the head is written: fill does the rest.
func (s *sender) batch(j *job, payload int64) (err error) {
	defer faults(&err)
	j.head = j.frame.Append(j.head[:0])
	if len(j.head) > wire.MaxHead {
		return api.Errorf(400, api.CodeBadRequest, "batch %d takes %d bytes to describe, at most %d are possible; choose a smaller batch_size", j.frame.Index, len(j.head), wire.MaxHead)
	}
	if s.places(payload) {
		return errors.Join(s.frameOf(wire.Placed, j.head, payload), s.flush())
	}
	if s.wanted(j) {
		if err := s.frameOf(wire.LZ4, j.head, payload); err != nil {
			return err
		}
		return s.deflate(j)
	}
	if err := s.frameOf(wire.Inline, j.head, payload); err != nil {
		return err
	}
	for i := range j.segs {
		if err := s.segment(&j.segs[i], j.frame.Items[i].Size); err != nil {
			return err
		}
	}
	if len(s.vector) > 0 {
		return s.flush() // what it refers to is the job's
	}
	return nil
}

// places says whether a payload goes into the loader's memory rather than through the connection.
func (s *sender) places(payload int64) bool { return s.shared != nil && payload >= placedFrom }

// fill writes a placed frame's items into the loader's memory and says so.
func (s *sender) fill(j *job) error {
	s.tenant.waits(true) // for the places
	err := s.shared.fill(j)
	s.tenant.waits(false)
	if err != nil {
		return unshared(err)
	}
	if err := s.mark(wire.FrameFilled, wire.Chunk{Next: j.frame.Index, Samples: int64(len(j.frame.Samples))}); err != nil {
		return err
	}
	return s.flush()
}

func (s *sender) frameOf(e wire.Encoding, head []byte, payload int64) error {
	var fixed [wire.HeaderSize]byte
	if err := s.write(wire.AppendBatchHeader(fixed[:0], e, head, payload)); err != nil {
		return err
	}
	return s.write(head)
}

func (s *sender) mark(t wire.FrameType, c wire.Chunk) error {
	var head [wire.MaxMark]byte
	return s.frame(t, c.Append(head[:0]), 0)
}

func (s *sender) failure(f wire.Failure) error { return s.frame(wire.FrameError, f.Append(nil), 0) }

func (s *sender) frame(t wire.FrameType, head []byte, payload int64) error {
	var fixed [wire.HeaderSize]byte
	if err := s.write(wire.AppendHeader(fixed[:0], t, head, payload)); err != nil {
		return err
	}
	return s.write(head)
}

// write buffers p, or sends it where it is large.
func (s *sender) write(p []byte) error {
	if len(s.vector) > 0 {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if len(p) > sendBuffer-len(s.buf) {
		if err := s.flush(); err != nil {
			return err
		}
		if len(p) >= sendBuffer/2 {
			return s.direct(p)
		}
	}
	s.buf = append(s.buf, p...)
	return nil
}

// refer queues p, which must stay as it is until flush.
func (s *sender) refer(p []byte) error {
	if len(s.vector) == 0 && len(s.buf) > 0 {
		s.vector = append(s.vector, s.buf)
	}
	s.vector = append(s.vector, p)
	if s.queued += len(p); len(s.vector) >= maxVectors || s.queued >= sendBuffer {
		return s.flush()
	}
	return nil
}

func (s *sender) flush() (err error) {
	switch {
	case len(s.vector) > 0:
		err = s.gather()
	case len(s.buf) > 0:
		err = s.direct(s.buf)
	}
	s.buf = s.buf[:0]
	return err
}

// gather sends the vector. A page of a mapped shard that the disk can't give is the kernel's to find.
func (s *sender) gather() error {
	all := s.vector
	s.tenant.waits(true)
	defer s.tenant.waits(false)
	began := time.Now()
	_, err := s.vector.WriteTo(s.conn)
	s.full += time.Since(began) // nearly nothing where it did not wait
	clear(all)
	s.vector, s.queued = all[:0], 0
	switch {
	case errors.Is(err, unix.EFAULT):
		return fmt.Errorf("%w: %w", errCut, err)
	case err != nil:
		return fmt.Errorf("%w: %w", errClient, err)
	}
	return nil
}

// direct sends p at once; nothing is queued before it.
func (s *sender) direct(p []byte) error {
	s.vector = append(s.vector, p)
	return s.gather()
}

// takeFull returns the time spent waiting for the loader to take more since the last call, in nanoseconds.
func (s *sender) takeFull() int64 {
	full := s.full
	s.full = 0
	if s.shared != nil {
		full += s.shared.waited
		s.shared.waited = 0
	}
	return int64(full)
}

// segment sends one item.
func (s *sender) segment(seg *segment, size int64) error {
	if seg.shard != nil && s.raw != nil && size >= sendfileFrom {
		return s.file(seg, size)
	}
	mem, err := seg.bytes(size)
	if err != nil {
		return err
	}
	if s.raw != nil && size >= vectorFrom && size < sendBuffer/2 && seg.stays() {
		return s.refer(mem)
	}
	return s.write(mem)
}

// bytes are the item's, in memory or in the mapped file.
func (seg *segment) bytes(size int64) ([]byte, error) {
	if seg.shard == nil {
		return seg.data, nil
	}
	mem, err := seg.shard.bytes(seg.off, size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCut, err)
	}
	return mem, nil
}

// stays says whether the item's bytes are still where they are once those of others were asked for: plain
// objects are read into one buffer, one after the other.
func (seg *segment) stays() bool { return seg.shard == nil || seg.shard.plain == nil }

// skip takes n bytes off the front.
func (seg *segment) skip(n int64) {
	if seg.shard == nil {
		seg.data = seg.data[n:]
		return
	}
	seg.off += n
}

// file sends a file range by sendfile(2).
func (s *sender) file(seg *segment, size int64) error {
	if err := s.flush(); err != nil {
		return err
	}
	s.tenant.waits(true) // what is sent beside files lies in memory meanwhile
	defer s.tenant.waits(false)
	s.in, s.off, s.left, s.err = int(seg.shard.object.File().Fd()), seg.off, size, nil
	if err := s.raw.Write(s.transfer); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	return s.err
}

// sendfile is called by the runtime's poller whenever the socket may be written; true ends the call.
func (s *sender) sendfile(fd uintptr) bool {
	if !s.fullAt.IsZero() {
		s.full += time.Since(s.fullAt)
		s.fullAt = time.Time{}
	}
	for s.left > 0 {
		n, err := unix.Sendfile(int(fd), s.in, &s.off, int(min(s.left, 1<<30)))
		switch {
		case errors.Is(err, unix.EAGAIN):
			s.fullAt = time.Now()
			return false
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EIO):
			s.err = fmt.Errorf("%w: %w", errCut, err)
			return true
		case err != nil:
			s.err = fmt.Errorf("%w: %w", errClient, err)
			return true
		case n == 0:
			s.err = fmt.Errorf("%w: %w", errCut, io.ErrUnexpectedEOF)
			return true
		}
		s.left -= int64(n)
	}
	return true
}
