package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows long work: a bar on a terminal, a line for each finished piece elsewhere. It is
// safe for concurrent use.
type progress struct {
	mu    sync.Mutex
	bar   *progressbar.ProgressBar // nil where there is no terminal
	plain io.Writer
}

// progress begins work of total bytes, -1 where that is not known. quiet shows nothing, for --json.
func (a *app) progress(label string, total int64, quiet bool) *progress {
	return a.progressOf(label, total, quiet, progressbar.OptionShowBytes(true))
}

func (a *app) progressOf(label string, total int64, quiet bool, more ...progressbar.Option) *progress {
	p := &progress{plain: a.out}
	switch file, ok := a.err.(*os.File); {
	case quiet:
		p.plain = io.Discard
	case ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb":
		p.plain = io.Discard
		p.bar = progressbar.NewOptions64(total, append(more, progressbar.OptionSetWriter(file),
			progressbar.OptionSetDescription(label), progressbar.OptionShowCount(), progressbar.OptionFullWidth(),
			progressbar.OptionThrottle(progressInterval), progressbar.OptionClearOnFinish())...)
	}
	return p
}

// Write counts bytes, so that a progress can be the other end of an io.TeeReader.
func (p *progress) Write(b []byte) (int, error) {
	if p.bar != nil {
		_ = p.bar.Add(len(b))
	}
	return len(b), nil
}

// add counts n pieces, where the work is not counted in bytes.
func (p *progress) add(n int) {
	if p.bar != nil {
		_ = p.bar.Add(n)
	}
}

// back takes bytes off again that are about to be sent anew.
func (p *progress) back(n int64) {
	if p.bar != nil {
		_ = p.bar.Add64(-n)
	}
}

// done reports a finished piece.
func (p *progress) done(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.plain, format+"\n", args...)
}

func (p *progress) close() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
