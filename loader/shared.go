package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

// Between processes of one machine no payload crosses a socket: the target sends heads over a Unix
// socket, the loader answers where in its arena the items go (and hands over the slot's memfd, once), the
// target writes them there and says so, and the loader verifies them where they lie. Two batches are
// under way at a time: one is written while the next is placed.

const (
	// maxSharedFailures is how often a shared stream may break before TCP is used for the rest of the iteration.
	maxSharedFailures = 3
	// hearOut is how long a target that was given places is waited for after a stream broke.
	hearOut = time.Second
)

// errNotLocal says that a target does not run on this machine, as far as can be told.
var errNotLocal = errors.New("not on this machine")

// dialShared connects to a target of this machine. Whoever listens under its name must be the very process
// that the cluster's map names: else it is a target elsewhere, or in another container.
func dialShared(ctx context.Context, cluster string, node *api.Node) (*net.UnixConn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	nc, err := d.DialContext(ctx, "unix", api.LocalSocket(cluster, node.ID))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotLocal, err)
	}
	uc, ok := nc.(*net.UnixConn)
	if !ok || peerPID(uc) != node.PID || node.PID == 0 {
		_ = nc.Close()
		return nil, fmt.Errorf("%w: another process has its name", errNotLocal)
	}
	return uc, nil
}

// peerPID is the process that listens at the other end, 0 where that can't be told.
func peerPID(uc *net.UnixConn) int {
	pid := 0
	rc, err := uc.SyscallConn()
	if err != nil {
		return 0
	}
	err = rc.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	if err != nil {
		return 0
	}
	return pid
}

// offer takes the head of a placed frame.
func (p *puller) offer(ctx context.Context, c *conn, t *taking, req *wire.ReadRequest) error {
	switch {
	case c.shared == nil:
		return fmt.Errorf("%w: a placed frame on a connection without shared memory", wire.ErrMalformed)
	case p.queued != nil:
		return fmt.Errorf("%w: a third frame is to be placed before the first is filled", wire.ErrMalformed)
	case p.pending == nil:
		p.pending = t
		_, err := p.placeShared(ctx, c, t, req, true)
		return err
	default:
		if t.frame.Index <= p.pending.frame.Index {
			return fmt.Errorf("%w: batch %d after %d", wire.ErrMalformed, t.frame.Index, p.pending.frame.Index)
		}
		p.queued = t
		// Waiting for room here would keep the answer to the frame before from being read.
		_, err := p.placeShared(ctx, c, t, req, false)
		return err
	}
}

// placeShared gives a frame its places and tells the target.
func (p *puller) placeShared(ctx context.Context, c *conn, t *taking, req *wire.ReadRequest, wait bool) (bool, error) {
	if wait && len(req.Slots) == 0 && t.frame.Index > p.progress.Load() {
		p.advance(ctx, t.frame.Index)
	}
	ok, err := p.acquire(ctx, t, wait)
	if err != nil || !ok {
		return false, err
	}
	t.placed = true
	return true, c.place(t)
}

// filled takes a target's word that a frame's items are in their places.
func (p *puller) filled(ctx context.Context, c *conn, m wire.Chunk, req *wire.ReadRequest) error {
	t := p.pending
	if t == nil || !t.placed || m.Next != t.frame.Index || m.Samples != int64(len(t.frame.Samples)) {
		return fmt.Errorf("%w: batch %d is said to be filled, which was not to be", wire.ErrMalformed, m.Next)
	}
	if t.batch != nil {
		t.verifyAll(t.batch.memory())
	}
	p.pending, p.queued = p.queued, nil
	p.commit(ctx, t, req)
	if next := p.pending; next != nil && !next.placed {
		_, err := p.placeShared(ctx, c, next, req, true)
		return err
	}
	return nil
}

// abandon gives up the frames of a stream that broke. A target that can't be heard to have ended may yet
// write to the places that it was given, so nothing else may lie there any more.
func (p *puller) abandon(c *conn) {
	if p.pending == nil {
		return
	}
	ended := c.shared == nil || c.shared.ended()
	for _, t := range []*taking{p.pending, p.queued} {
		if t == nil || t.batch == nil {
			continue
		}
		if !ended && t.placed {
			p.it.l.arena.taint(t.batch.taint())
		}
		t.unclaim()
	}
	p.pending, p.queued = nil, nil
}

// sharedConn is the loader's end of a stream over shared memory.
type sharedConn struct {
	unix  *net.UnixConn
	known map[int]bool // slots whose memory the target has
	buf   []byte
}

// place sends a frame's placement.
func (c *conn) place(t *taking) error {
	if err := c.net.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	if c.interrupted.Load() { // between the deadlines of interrupt and of this write
		return context.Canceled
	}
	return c.shared.place(t)
}

// place sends a frame's placement, with the slot's memory if the target does not have it yet.
func (s *sharedConn) place(t *taking) error {
	p := wire.Placement{Index: t.frame.Index}
	var rights []byte
	if t.batch != nil {
		slot, size := t.batch.target()
		p.Slot, p.Size = slot.id, size
		if !s.known[slot.id] && size > 0 {
			rights = unix.UnixRights(slot.fd)
			s.known[slot.id] = true
		}
	}
	s.buf = wire.AppendPlacement(s.buf[:0], p, t.dst)
	n, _, err := s.unix.WriteMsgUnix(s.buf[:wire.PlacementSize], rights, nil)
	if err != nil {
		return err
	}
	_, err = s.unix.Write(s.buf[n:])
	return err
}

// ended waits until the target has closed its end: from then on it writes nothing more. A process that is
// gone has closed it too.
func (s *sharedConn) ended() bool {
	_ = s.unix.CloseWrite()
	if s.unix.SetReadDeadline(time.Now().Add(hearOut)) != nil {
		return false
	}
	s.buf = resize(s.buf, 64<<10)
	for {
		_, err := s.unix.Read(s.buf)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			return true
		case errors.Is(err, os.ErrDeadlineExceeded), err != nil:
			return false
		}
	}
}
