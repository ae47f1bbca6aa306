package streams_test

import (
	"io"
	"math"
	"math/rand/v2"
	"net"
	"sync"
)

// chaos kills one target in the middle of what it sends, and cuts connections of all. It starts the
// target again only after a loader has noticed and asked for the map.
type chaos struct {
	c      *cluster
	victim *target
	killAt int64 // bytes that the victim has sent

	mu     sync.Mutex
	rng    *rand.Rand
	sent   map[*target]int64
	cuts   int
	killed bool
}

// unleash begins; the cluster is as before once calm was called.
func unleash(c *cluster, victim int, killAt int64, seed uint64) *chaos {
	x := &chaos{c: c, victim: c.targets[victim], killAt: killAt, rng: rand.New(rand.NewPCG(seed, 0)), sent: map[*target]int64{}}
	for _, tg := range c.targets {
		tg.setWrap(func(nc net.Conn) net.Conn { return &hunted{Conn: nc, x: x, tg: tg, left: x.budget()} })
	}
	c.mu.Lock()
	c.onRefresh = x.victim.start
	c.mu.Unlock()
	return x
}

func (x *chaos) calm() {
	for _, tg := range x.c.targets {
		tg.setWrap(nil)
	}
	x.c.mu.Lock()
	x.c.onRefresh = nil
	x.c.mu.Unlock()
	x.victim.start()
}

// budget is after how many bytes a new connection is cut: every other one, and fewer as time goes on, so
// that all streams end.
func (x *chaos) budget() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cuts >= 12 || x.rng.IntN(2) == 0 {
		return math.MaxInt64
	}
	x.cuts++
	return 100 + x.rng.Int64N(6_000)
}

// strike reports whether the victim dies now.
func (x *chaos) strike(tg *target, n int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sent[tg] += int64(n)
	if x.killed || tg != x.victim || x.sent[tg] < x.killAt {
		return false
	}
	x.killed = true
	return true
}

// hunted is a connection of a stream under chaos.
type hunted struct {
	net.Conn
	x    *chaos
	tg   *target
	left int64
}

func (h *hunted) Write(p []byte) (int, error) {
	if h.x.strike(h.tg, len(p)) {
		n, _ := h.Conn.Write(p[:len(p)/2])
		h.tg.stop()
		return n, io.ErrClosedPipe
	}
	if h.left -= int64(len(p)); h.left < 0 {
		n, _ := h.Conn.Write(p[:int64(len(p))+h.left])
		_ = h.Conn.Close()
		return n, io.ErrClosedPipe
	}
	return h.Conn.Write(p)
}
