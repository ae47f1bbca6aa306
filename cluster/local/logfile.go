package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// maxLog is the size at which a log is rotated; one older file is kept, so a node's logs take at
// most twice that.
const maxLog = 16 << 20

// logFile is a log bounded in size: NODE.log, and NODE.log.1 before it.
type logFile struct {
	path string
	max  int64

	mu   sync.Mutex
	file *os.File
	size int64
}

func openLog(path string, limit int64) (*logFile, error) {
	l := &logFile{path: path, max: limit}
	return l, l.open()
}

func (l *logFile) open() error {
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	stat, err := file.Stat()
	if err != nil {
		return errors.Join(err, file.Close())
	}
	l.file, l.size = file, stat.Size()
	return nil
}

// Write never fails for good: a log that can't be written (a full disk) must not stop a node that
// could go on, so its lines are dropped until there is room.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(p)) > l.max {
		_ = l.file.Close()
		_ = os.Rename(l.path, l.path+".1")
		if err := l.open(); err != nil {
			return len(p), nil //nolint:nilerr // see above; the closed file drops what follows
		}
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}

// lastWords is the end of the log of a node that has ended: what it said last may still be on its way through the pipe.
func lastWords(path string, lines int) string {
	const still, steps = 5, 50
	last, same := tailOf(path, lines), 0
	for i := 0; i < steps && same < still; i++ {
		time.Sleep(drainTime / steps)
		now := tailOf(path, lines)
		if same++; now != last || now == "" {
			last, same = now, 0
		}
	}
	return last
}

// tailOf is the end of a log, for the message that says why a node did not start.
func tailOf(path string, lines int) string {
	const most = 64 << 10
	file, err := os.Open(path)
	if err != nil {
		return fmt.Sprintf("(no log: %v)", err)
	}
	defer file.Close()
	if stat, err := file.Stat(); err == nil && stat.Size() > most {
		_, _ = file.Seek(-most, io.SeekEnd)
	}
	content, _ := io.ReadAll(io.LimitReader(file, most))
	all := withoutTraceback(strings.Split(strings.TrimRight(string(content), "\n"), "\n"))
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// withoutTraceback ends a log with the words of the panic that ended its node: they and what was logged
// before say why, the goroutines below only where.
func withoutTraceback(lines []string) []string {
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.HasPrefix(lines[i], "panic:") || strings.HasPrefix(lines[i], "fatal error:") {
			return lines[:i+1]
		}
		if strings.HasPrefix(lines[i], "time=") || strings.HasPrefix(lines[i], "{") { // logged since
			break
		}
	}
	return lines
}
