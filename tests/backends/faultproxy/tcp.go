package faultproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// TCP is a proxy in front of a server that speaks something else than HTTP.
type TCP struct {
	Addr string

	behind   string
	listener net.Listener
	closed   chan struct{}
	work     sync.WaitGroup

	connections atomic.Int64
	bytes       atomic.Int64

	mu      sync.Mutex
	open    map[net.Conn]bool
	cuts    []int64       // of the next connections: after how many bytes from the server
	stalled chan struct{} // not nil while nothing gets through; closed at its end
	refuse  bool
	flip    int64
	rate    int64
	pace    pace
}

// NewTCP starts a proxy on a free port, or on the one of at, before the server at behind.
func NewTCP(at, behind string) (*TCP, error) {
	if at == "" {
		at = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		return nil, err
	}
	p := &TCP{
		Addr: l.Addr().String(), behind: behind, listener: l, closed: make(chan struct{}), open: map[net.Conn]bool{},
	}
	p.work.Go(p.accept) // ends with Close
	return p, nil
}

// Close ends the proxy and all connections through it.
func (p *TCP) Close() {
	close(p.closed)
	_ = p.listener.Close()
	p.CutAll()
	p.work.Wait()
}

// CutNext cuts each of the next connections after that many bytes from the server; 0 or less: before the first.
func (p *TCP) CutNext(after ...int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = append(p.cuts, after...)
}

// CutAll cuts the connections that there are.
func (p *TCP) CutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		_ = c.Close()
	}
}

// Stall lets nothing through, or all again.
func (p *TCP) Stall(stall bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case stall && p.stalled == nil:
		p.stalled = make(chan struct{})
	case !stall && p.stalled != nil:
		close(p.stalled)
		p.stalled = nil
	}
}

// Refuse cuts every new connection at once, or none any more.
func (p *TCP) Refuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// Flip changes one byte from the server, at that place (counted from 1) of the next connection that has so many.
func (p *TCP) Flip(place int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flip = place
}

// Rate is how many bytes a second come from the server, all connections together; 0: as many as it sends.
func (p *TCP) Rate(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = rate
}

// Clear ends all faults.
func (p *TCP) Clear() {
	p.Stall(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts, p.refuse, p.flip, p.rate = nil, false, 0, 0
}

// Reset forgets what was seen.
func (p *TCP) Reset() {
	p.connections.Store(0)
	p.bytes.Store(0)
}

// Connections is how many were opened since the last Reset.
func (p *TCP) Connections() int64 { return p.connections.Load() }

// Bytes is how many came from the server since the last Reset.
func (p *TCP) Bytes() int64 { return p.bytes.Load() }

func (p *TCP) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.connections.Add(1)
		p.work.Go(func() { p.relay(client) })
	}
}

// relay ends when either side does, or with Close.
func (p *TCP) relay(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	refuse, limit := p.refuse, int64(-1)
	if len(p.cuts) > 0 {
		limit, p.cuts = max(p.cuts[0], 0), p.cuts[1:]
	}
	p.mu.Unlock()
	if refuse || limit == 0 {
		return
	}
	server, err := net.Dial("tcp", p.behind)
	if err != nil {
		return
	}
	defer server.Close()
	p.keep(client, server)
	defer p.forget(client, server)
	var other sync.WaitGroup
	other.Go(func() {
		_, _ = io.Copy(&gate{p: p, to: server, limit: -1}, client)
		_ = server.Close()
	})
	_, _ = io.Copy(&gate{p: p, to: client, limit: limit, down: true}, server)
	_ = client.Close()
	other.Wait()
}

func (p *TCP) keep(connections ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range connections {
		p.open[c] = true
	}
	select {
	case <-p.closed: // Close has already cut the others
		for _, c := range connections {
			_ = c.Close()
		}
	default:
	}
}

func (p *TCP) forget(connections ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range connections {
		delete(p.open, c)
	}
}

// gate writes to one side what the other has said.
type gate struct {
	p     *TCP
	to    net.Conn
	limit int64 // -1: none
	down  bool  // from the server to the client
	done  int64
}

func (g *gate) Write(data []byte) (int, error) {
	g.p.mu.Lock()
	stalled, rate := g.p.stalled, g.p.rate
	if at := g.p.flip - 1 - g.done; g.down && g.p.flip > 0 && at >= 0 && at < int64(len(data)) {
		data = bytes.Clone(data)
		data[at] ^= 0x20
		g.p.flip = 0
	}
	g.p.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-g.p.closed:
			return 0, errCut
		}
	}
	if g.limit >= 0 && g.done+int64(len(data)) > g.limit {
		n, err := g.to.Write(data[:g.limit-g.done])
		return n, errors.Join(err, errCut)
	}
	n, err := g.to.Write(data)
	g.done += int64(n)
	if g.down {
		g.p.bytes.Add(int64(n))
		if rate > 0 {
			select {
			case <-time.After(g.p.pace.take(int64(n), rate)):
			case <-g.p.closed:
			}
		}
	}
	return n, err
}
