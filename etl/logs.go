package etl

import (
	"strings"
	"sync"
)

// logRing keeps the last bytes that were written to it.
type logRing struct {
	mu   sync.Mutex
	buf  []byte
	next int  // where the next byte goes
	full bool // buf has wrapped around
}

func newLogRing(size int) *logRing { return &logRing{buf: make([]byte, size)} }

func (l *logRing) Write(p []byte) (int, error) {
	n := len(p)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(p) > len(l.buf) {
		p = p[len(p)-len(l.buf):]
	}
	for len(p) > 0 {
		c := copy(l.buf[l.next:], p)
		p = p[c:]
		l.next += c
		if l.next == len(l.buf) {
			l.next, l.full = 0, true
		}
	}
	return n, nil
}

// String is what is kept, from the first whole line on.
func (l *logRing) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.full {
		return strings.ToValidUTF8(string(l.buf[:l.next]), "\uFFFD")
	}
	text := string(l.buf[l.next:]) + string(l.buf[:l.next])
	if i := strings.IndexByte(text, '\n'); i >= 0 && i+1 < len(text) {
		text = text[i+1:]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// Log keeps the last bytes that were written to it, for Runtime.Logs. It is safe for concurrent use.
type Log = logRing

// NewLog makes a log that keeps so many bytes.
func NewLog(size int) *Log { return newLogRing(size) }
