package filter

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/calls"
)

// lastWords are how much of a run's stderr goes into its error.
const lastWords = 4 << 10

// run is one object on its way through a program. It is read from where the answer is.
type run struct {
	filter  *Filter
	call    *calls.Call
	name    string
	process process
	stdin   *os.File // our ends
	stdout  *os.File
	answer  io.Reader // stdout, watched
	stall   *calls.Stall
	said    *etl.Log // its stderr
	unhook  func() bool

	feeding sync.WaitGroup
	mu      sync.Mutex
	source  error // of reading the object
}

// begin starts a program and feeds it the object.
func (f *Filter) begin(call *calls.Call, object etl.Object, args etl.Args) (*run, error) {
	r := &run{filter: f, call: call, name: object.Name(), said: etl.NewLog(lastWords)}
	theirIn, stdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	stdout, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirIn.Close(), stdin.Close())
	}
	r.stdin, r.stdout = stdin, stdout
	stderr := io.MultiWriter(r.said, f.log)
	r.process, err = f.program.start(call.Ctx, environment(f.def, args, r.name), theirIn, theirOut, stderr)
	_, _ = theirIn.Close(), theirOut.Close()
	if err != nil {
		_, _ = stdin.Close(), stdout.Close()
		var user *etl.UserError
		switch cause := call.Cause(); {
		case cause != nil:
			return nil, cause
		case errors.As(err, &user):
			return nil, f.failure(r.name, user.Summary, user.Traceback)
		}
		return nil, err
	}
	r.unhook = context.AfterFunc(call.Ctx, r.abandon)
	r.stall = calls.NewStall(f.def.Timeout, call.Cancel)
	r.answer = r.stall.Answer(stdout)
	r.feeding.Go(func() { r.feed(object.Body) })
	return r, nil
}

// feed gives the object to the program. One that closes its stdin early has read enough.
func (r *run) feed(body io.Reader) {
	defer func() { _ = r.stdin.Close() }()
	if body == nil {
		return
	}
	source := &sourceReader{Reader: r.stall.Source(body)}
	n, err := io.Copy(r.stdin, source)
	r.call.In(n)
	if err == nil || source.err == nil {
		return
	}
	r.mu.Lock()
	r.source = source.err
	r.mu.Unlock()
	r.call.Cancel(source.err) // before its stdin ends: it would take that for the end of the object
	r.process.kill()
}

// sourceReader tells errors of reading from those of writing.
type sourceReader struct {
	io.Reader
	err error
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// abandon ends the run before its time. What has escaped from the program may hold its stdin and stdout open.
func (r *run) abandon() {
	r.process.kill()
	_ = r.stdin.SetWriteDeadline(time.Now())
	_ = r.stdout.SetReadDeadline(time.Now())
}

// Read reads the answer. Its end counts only once the program has ended well.
func (r *run) Read(p []byte) (int, error) {
	n, err := r.answer.Read(p)
	if err == nil || !errors.Is(err, io.EOF) {
		return n, err
	}
	r.stall.Await(true)
	select {
	case <-r.process.exited():
		r.stall.Await(false)
	case <-r.call.Ctx.Done():
		return n, r.call.Cause()
	}
	r.mu.Lock()
	source := r.source
	r.mu.Unlock()
	switch verdict := r.process.verdict(); {
	case r.call.Cause() != nil:
		return n, r.call.Cause()
	case source != nil:
		return n, source
	case verdict != "":
		return n, r.filter.failure(r.name, verdict, strings.TrimSpace(r.said.String()))
	}
	return n, io.EOF
}

// fail makes the error of an answer that broke off.
func (r *run) fail(err error) error {
	if cause := r.call.Cause(); cause != nil {
		err = cause
	}
	var (
		stall *calls.StallError
		size  *etl.SizeError
	)
	switch {
	case errors.As(err, &stall):
		r.filter.book.Timeout()
		return r.filter.failure(r.name, "it neither read nor wrote anything for "+stall.Limit.String(), strings.TrimSpace(r.said.String()))
	case errors.As(err, &size):
		return r.filter.tooLarge(r.name)
	}
	return err
}

// close ends the run, and joins all that belongs to it.
func (r *run) close() {
	r.unhook()
	r.stall.Stop()
	r.abandon()
	r.feeding.Wait()
	_ = r.stdout.Close()
}
