//go:build !race

package simulation

import "time"

// host is a machine on the simulated network.
type host struct {
	id      string
	up      bool
	life    int           // counts crashes
	stopped time.Duration // until when it does nothing, as by SIGSTOP
	handle  func(request any) any
}

// crash ends all that the host does.
func (h *host) crash() { h.up, h.life, h.stopped = false, h.life+1, 0 }

type link struct{ from, to string }

// links are the network's troubles.
type links struct {
	cut   map[link]time.Duration // until when nothing passes, one way
	lossy time.Duration          // until when messages are lost
	slow  time.Duration          // until when messages take long
}

func (e *engine) cut(from, to *host, until time.Duration) { e.links.cut[link{from.id, to.id}] = until }

// repair ends all troubles.
func (e *engine) repair() { e.links = links{cut: map[link]time.Duration{}} }

// send delivers a message, maybe.
func (e *engine) send(from, to *host, deliver func()) {
	if e.links.cut[link{from.id, to.id}] > e.now || e.links.lossy > e.now && e.chance(0.1) {
		return
	}
	delay := e.between(100*time.Microsecond, 3*time.Millisecond)
	if e.links.slow > e.now && e.chance(0.3) {
		delay = e.between(0, 1500*time.Millisecond)
	}
	e.at(e.now+delay, func() { e.arrive(to, deliver) })
}

// arrive waits for hosts that are stopped: their kernels take messages in.
func (e *engine) arrive(at *host, deliver func()) {
	if at.stopped > e.now {
		e.at(at.stopped, func() { e.arrive(at, deliver) })
		return
	}
	deliver()
}

// refused is the answer of a machine whose process is gone; nil is no answer in time.
type refused struct{}

// call asks a host, and gives its answer: nil where none came in time.
func (e *engine) call(from, to *host, timeout time.Duration, request any) any {
	return e.callAll(from, []*host{to}, timeout, func(int) any { return request })[0]
}

// callAll asks several at once, and returns when all have answered or the time is over.
func (e *engine) callAll(from *host, to []*host, timeout time.Duration, request func(i int) any) []any {
	answers, open, caller := make([]any, len(to)), len(to), e.running
	if open == 0 {
		return nil
	}
	done := make([]bool, len(to))
	settle := func(i int, answer any) {
		if done[i] {
			return
		}
		done[i], answers[i] = true, answer
		if open--; open == 0 {
			e.at(e.now, func() { e.resume(caller) })
		}
	}
	for i, h := range to {
		body := request(i)
		e.at(e.now+timeout, func() { settle(i, nil) })
		e.send(from, h, func() {
			back := func(answer any) { e.send(h, from, func() { settle(i, answer) }) }
			if !h.up {
				back(refused{})
				return
			}
			e.start(h, func() { back(h.handle(body)) })
		})
	}
	e.wait()
	return answers
}
