//go:build !race

package simulation

import (
	"container/heap"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"
)

// engine is the simulated world's clock and scheduler: one event at a time, in the order of their times, so that a
// seed always gives the same run. What a node does at length is a proc, a coroutine that the engine resumes.
type engine struct {
	now     time.Duration
	rand    *rand.Rand
	queue   events
	count   int // of events so far: breaks ties
	running *proc
	procs   map[*proc]bool
	links   links
	journal []string
}

func newEngine(seed uint64) *engine {
	return &engine{rand: rand.New(rand.NewPCG(seed, 0)), procs: map[*proc]bool{}, links: links{cut: map[link]time.Duration{}}}
}

type event struct {
	at    time.Duration
	order int
	do    func()
}

type events []event

func (q events) Len() int      { return len(q) }
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q *events) Push(e any) { *q = append(*q, e.(event)) }
func (q *events) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

// at has something done later.
func (e *engine) at(t time.Duration, do func()) {
	e.count++
	heap.Push(&e.queue, event{max(t, e.now), e.count, do})
}

// run lets time pass.
func (e *engine) run(until time.Duration) {
	for len(e.queue) > 0 && e.queue[0].at <= until {
		next := heap.Pop(&e.queue).(event)
		e.now = next.at
		next.do()
	}
	e.now = until
}

// between draws a duration.
func (e *engine) between(low, high time.Duration) time.Duration {
	return low + time.Duration(e.rand.Int64N(int64(high-low)+1))
}

func (e *engine) chance(p float64) bool { return e.rand.Float64() < p }

// note writes a line of the journal that a failing seed prints.
func (e *engine) note(format string, args ...any) {
	e.journal = append(e.journal, fmt.Sprintf("%9.3f ", e.now.Seconds())+fmt.Sprintf(format, args...))
}

// proc is something that a host does. It ends with the life of the host that it began in, wherever it is then.
type proc struct {
	host  *host
	life  int
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
}

// killed unwinds a proc whose host has crashed.
type killed struct{}

// start begins a proc of a host.
func (e *engine) start(h *host, body func()) {
	p := &proc{host: h, life: h.life}
	p.next, p.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if r := recover(); r != nil && r != any(killed{}) {
				panic(r)
			}
		}()
		p.yield = yield
		body()
	})
	e.procs[p] = true
	e.at(e.now, func() { e.resume(p) })
}

// resume goes on with a proc: later, if its host is stopped; not at all, if it has crashed.
func (e *engine) resume(p *proc) {
	switch {
	case !e.procs[p]:
	case p.life != p.host.life:
		e.end(p)
	case p.host.stopped > e.now:
		e.at(p.host.stopped, func() { e.resume(p) })
	default:
		e.running = p
		_, more := p.next()
		e.running = nil
		if !more {
			delete(e.procs, p)
		}
	}
}

func (e *engine) end(p *proc) {
	delete(e.procs, p)
	p.stop()
}

// close ends all procs.
func (e *engine) close() {
	for p := range e.procs {
		p.stop()
	}
}

// wait suspends the running proc until something resumes it.
func (e *engine) wait() {
	if !e.running.yield(struct{}{}) {
		panic(killed{})
	}
}

// sleep suspends the running proc for a while.
func (e *engine) sleep(d time.Duration) {
	p := e.running
	e.at(e.now+d, func() { e.resume(p) })
	e.wait()
}

// mutex is held by one proc at a time, first come first served.
type mutex struct {
	held    bool
	waiting []*proc
}

func (e *engine) lock(m *mutex) {
	if !m.held {
		m.held = true
		return
	}
	m.waiting = append(m.waiting, e.running)
	e.wait()
}

func (e *engine) unlock(m *mutex) {
	if len(m.waiting) == 0 {
		m.held = false
		return
	}
	next := m.waiting[0]
	m.waiting = m.waiting[1:]
	e.at(e.now, func() { e.resume(next) })
}
