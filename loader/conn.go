package loader

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
)

const (
	dialTimeout = 3 * time.Second
	// connBuffer takes heads and small items; what is larger than directRead goes past it.
	connBuffer = 256 << 10
	directRead = 32 << 10
	maxRefusal = 1 << 20 // bytes of an answer that is no stream
)

// conn is an upgraded connection with a buffer that large reads bypass.
type conn struct {
	net     net.Conn
	shared  *sharedConn // nil over TCP
	timeout time.Duration
	buf     []byte
	r, w    int
	taken   int64   // bytes that came over the connection and were used
	blocks  *blocks // made with the first compressed frame

	interrupted atomic.Bool
}

func dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, Control: preferCubic}
	return d.DialContext(ctx, "tcp", addr)
}

// open upgrades a connection to a stream; it takes the connection over.
func open(ctx context.Context, nc net.Conn, addr, snapshot string, req wire.ReadRequest, timeout time.Duration) (*conn, error) {
	c := &conn{net: nc, timeout: timeout, buf: make([]byte, connBuffer)}
	if uc, ok := nc.(*net.UnixConn); ok {
		c.shared = &sharedConn{unix: uc, known: make(map[int]bool)}
	}
	// The handshake ends with the context too.
	defer context.AfterFunc(ctx, c.close)()
	if err := c.upgrade(addr, snapshot, req); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// transport names the way that payloads take.
func (c *conn) transport() string {
	if c.shared != nil {
		return TransportShared
	}
	return TransportTCP
}

// preferCubic chooses the congestion control of loopback connections: a host's default may pace even
// there (bbr), at a third less throughput.
func preferCubic(_, address string, rc syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil || !net.ParseIP(host).IsLoopback() {
		return nil
	}
	return rc.Control(func(fd uintptr) {
		// Not every kernel has it; the default serves then.
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
	})
}

func (c *conn) upgrade(addr, snapshot string, req wire.ReadRequest) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	hr, err := http.NewRequest(http.MethodPost, "http://"+addr+"/v1/streams/"+snapshot+"/read", bytes.NewReader(body))
	if err != nil {
		return err
	}
	hr.Header.Set("Connection", "Upgrade")
	hr.Header.Set("Upgrade", api.StreamProtocol)
	hr.Header.Set("Content-Type", "application/json")
	if err := c.net.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	if err := hr.Write(c.net); err != nil {
		return err
	}
	br := bufio.NewReader(io.LimitReader(c.net, maxRefusal)) // the header's size is not bounded otherwise
	resp, err := http.ReadResponse(br, hr)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return refusal(resp)
	}
	// What the target sent right behind the answer is the stream's beginning.
	early, err := br.Peek(br.Buffered())
	if err != nil {
		return err
	}
	c.w = copy(c.buf, early)
	return c.net.SetDeadline(time.Time{})
}

func refusal(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		return err
	}
	var doc api.ErrorBody
	if json.Unmarshal(body, &doc) == nil && doc.Error != nil {
		doc.Error.Status = resp.StatusCode
		return doc.Error
	}
	return api.Errorf(resp.StatusCode, api.CodeInternal, "the target answered %s to a stream request", resp.Status)
}

func (c *conn) close() { _ = c.net.Close() }

// interrupt ends reads under way and to come. The socket stays open, so that a target which shares memory
// can still be heard to have ended.
func (c *conn) interrupt() {
	c.interrupted.Store(true)
	_ = c.net.SetDeadline(time.Unix(1, 0))
}

// header reads a frame's fixed part.
func (c *conn) header() (wire.Header, error) {
	for c.w-c.r < wire.HeaderSize {
		if err := c.fill(); err != nil {
			if errors.Is(err, io.EOF) {
				err = fmt.Errorf("the stream ended without its end mark: %w", io.ErrUnexpectedEOF)
			}
			return wire.Header{}, err
		}
	}
	h, err := wire.ParseHeader(c.buf[c.r:c.w])
	c.r += wire.HeaderSize
	return h, err
}

// fill reads more into the buffer.
func (c *conn) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	} else if c.w == len(c.buf) {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	n, err := c.netRead(c.buf[c.w:])
	c.w += n
	return err
}

func (c *conn) netRead(p []byte) (int, error) {
	if err := c.net.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	if c.interrupted.Load() { // between the deadlines of interrupt and of this read
		return 0, context.Canceled
	}
	n, err := c.net.Read(p)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// some reads at least one byte into p (which is not empty), from the buffer first and directly when p is large.
func (c *conn) some(p []byte) (int, error) {
	if c.r == c.w {
		if len(p) >= directRead {
			n, err := c.netRead(p)
			c.taken += int64(n)
			return n, unexpected(err)
		}
		if err := c.fill(); err != nil {
			return 0, unexpected(err)
		}
	}
	n := copy(p, c.buf[c.r:c.w])
	c.r += n
	c.taken += int64(n)
	return n, nil
}

// read fills p.
func (c *conn) read(p []byte) error {
	for len(p) > 0 {
		n, err := c.some(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// headPiece is how much memory a claimed length of a head is worth before its bytes are there.
const headPiece = 1 << 20

// head appends n bytes to p, which grows as they arrive.
func (c *conn) head(p []byte, n int) ([]byte, error) {
	for n > 0 {
		piece := min(n, headPiece)
		p = slices.Grow(p, piece)
		at := len(p)
		p = p[:at+piece]
		if err := c.read(p[at:]); err != nil {
			return p[:at], err
		}
		n -= piece
	}
	return p, nil
}

// discard skips n bytes.
func (c *conn) discard(n int64) error {
	for n > 0 {
		if c.r == c.w {
			if err := c.fill(); err != nil {
				return unexpected(err)
			}
		}
		k := min(n, int64(c.w-c.r))
		c.r += int(k)
		n -= k
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
