package etl

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/etl/environment"
	"github.com/shardstream/shardstream/etl/sandbox"
)

// spawner starts the processes of one definition.
type spawner struct {
	def    Definition
	opts   Options
	level  string // of isolation
	report *sandbox.Report
	logs   *logRing
	log    *slog.Logger

	condition *condition

	mu          sync.Mutex
	dir         string                   // of the worker script and the workers' directories; made with the first process
	lock        *os.File                 // says that dir is in use
	python      *environment.Interpreter // settled once, by furnish
	environment *environment.Environment
	unbuilt     string // log of a build that failed
}

func newSpawner(def Definition, opts Options) (*spawner, error) {
	def = def.WithDefaults()
	if err := def.Validate(); err != nil {
		return nil, err
	}
	if opts.StartTimeout <= 0 {
		opts.StartTimeout = time.Minute
	}
	if opts.MaxSample <= 0 {
		opts.MaxSample = 1 << 30
	}
	if opts.MaxResults <= 0 {
		opts.MaxResults = 4 << 30
	}
	if opts.LogBytes <= 0 {
		opts.LogBytes = 64 << 10
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	report, err := sandbox.Probe(context.Background())
	if err != nil {
		return nil, err
	}
	level, err := Isolation(report, opts.Isolation, def)
	if err != nil {
		return nil, err
	}
	if _, err := FindPython(context.Background(), opts.Python); err != nil {
		return nil, err
	}
	return &spawner{
		def: def, opts: opts, condition: newCondition(), level: level, report: report,
		logs: newLogRing(opts.LogBytes), log: opts.Logger.With("etl", def.Name),
	}, nil
}

// outputLimit bounds an answer that is held in memory.
func (s *spawner) outputLimit() int64 { return min(s.opts.MaxSample, s.def.Limits.Output) }

// home returns the spawner's directory, which holds the worker script.
func (s *spawner) home() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir != "" {
		return s.dir, nil
	}
	sweep(s.opts.Dir)
	dir, err := os.MkdirTemp(s.opts.Dir, dirPrefix+s.def.Name+"-")
	if err != nil {
		return "", err
	}
	lock, err := claim(dir)
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	s.dir, s.lock = dir, lock
	return dir, nil
}

// cleanup removes the directory; every process must have ended.
func (s *spawner) cleanup() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vacate()
	if s.dir == "" {
		return nil
	}
	dir := s.dir
	s.dir = ""
	return errors.Join(sandbox.Remove(dir), s.lock.Close())
}

// process is one running worker. Its owner alone talks to it; kill and the exit may come from elsewhere.
type process struct {
	etl    string
	memory int64 // that it may use
	box    *sandbox.Process
	pid    int
	cwd    string
	conn   *net.UnixConn
	tick   *tickReader
	frames *frameReader
	writer frameWriter
	status []byte // page shared with the worker
	arena  *arena
	seq    uint64 // of the last request
	args   string // of the last request
	stream bool   // the function reads its object as a file
	tail   *logRing

	mostOut  int64         // bytes of an object that comes in pieces
	mostHeld int64         // bytes of the results of a call
	logged   chan struct{} // closed when its output has been read

	generation int64 // see condition
}

// start runs a process and loads the definition in it. A *UserError means that the definition doesn't load.
func (s *spawner) start(ctx context.Context) (_ *process, err error) {
	generation := s.condition.begin()
	defer func() {
		if err != nil {
			s.condition.end(generation, err)
		}
	}()
	if err := s.furnish(ctx); err != nil {
		return nil, err
	}
	s.condition.loading()
	home, err := s.home()
	if err != nil {
		return nil, fmt.Errorf("start a worker of etl %q: %w", s.def.Name, err)
	}
	p, err := s.launch(ctx, home)
	if err != nil {
		return nil, fmt.Errorf("start a worker of etl %q with %s: %w", s.def.Name, s.python.Path, err)
	}
	if err := s.load(ctx, p); err != nil {
		s.close(p)
		return nil, err
	}
	p.generation = generation
	return p, nil
}

// launch starts the interpreter in its sandbox.
func (s *spawner) launch(ctx context.Context, home string) (_ *process, err error) {
	p := &process{etl: s.def.Name, memory: s.def.Limits.Memory, mostOut: s.def.Limits.Output, mostHeld: s.opts.MaxResults, tail: newLogRing(4 << 10), logged: make(chan struct{})}
	var opened []io.Closer // what the child has its own copy of
	defer func() {
		for _, c := range opened {
			_ = c.Close()
		}
		if err != nil {
			p.release()
		}
	}()
	if p.cwd, err = os.MkdirTemp(home, "worker-"); err != nil {
		return nil, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "etl"), os.NewFile(uintptr(fds[1]), "etl-worker")
	opened = append(opened, ours, theirs)
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	p.conn = conn.(*net.UnixConn)
	_ = p.conn.SetReadBuffer(1 << 20) // as far as the host allows
	_ = p.conn.SetWriteBuffer(1 << 20)
	page, err := p.statusPage()
	if err != nil {
		return nil, err
	}
	opened = append(opened, page)
	arena, shared, err := newArena()
	if err != nil {
		return nil, err
	}
	p.arena = arena
	opened = append(opened, shared)
	output, input, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	opened = append(opened, input)

	spec := s.spec(home, p.cwd)
	spec.Stdout, spec.Stderr = input, input
	spec.ExtraFiles = []*os.File{theirs, page, shared}
	if p.box, err = sandbox.Start(ctx, s.level, spec); err != nil {
		_ = output.Close()
		return nil, err
	}
	p.pid = p.box.Pid()
	go p.readLog(output, s.logs)

	p.tick = &tickReader{conn: p.conn}
	p.frames = newFrameReader(bufio.NewReaderSize(p.tick, 32<<10), p.arena.results(), s.outputLimit())
	p.writer.conn, p.writer.area = p.conn, p.arena.requests()
	return p, nil
}

// statusPage makes the shared page and maps it here.
func (p *process) statusPage() (*os.File, error) {
	file, page, err := sharedMemory("shardstream-etl", os.Getpagesize(), unix.PROT_READ)
	p.status = page
	return file, err
}

// inHand is the seq of the sample that the worker is at, 0 between samples.
func (p *process) inHand() uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&p.status[0])))
}

// kill ends the worker and all that it has started.
func (p *process) kill() { p.box.Kill() }

// readLog copies user output to the logs until the process is gone and the pipe is empty. A
// process that has escaped from the group may keep the pipe open; it is not waited for.
func (p *process) readLog(output *os.File, logs *logRing) {
	defer close(p.logged)
	defer output.Close()
	done := make(chan struct{})
	defer func() { <-done }()
	go func() {
		defer close(done)
		<-p.box.Exited()
		_ = output.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	}()
	buf := make([]byte, 16<<10)
	for {
		n, err := output.Read(buf)
		_, _ = logs.Write(buf[:n])
		_, _ = p.tail.Write(buf[:n])
		if err != nil {
			return
		}
	}
}

// close kills a process, joins all that belongs to it and frees it.
func (s *spawner) close(p *process) {
	if err := p.box.Close(); err != nil {
		s.log.Warn("an etl worker has left something behind", "error", err)
	}
	<-p.logged
	p.release()
}

func (p *process) release() {
	if p.conn != nil {
		_ = p.conn.Close()
	}
	if p.status != nil {
		_ = unix.Munmap(p.status)
		p.status = nil
	}
	if p.arena != nil {
		p.arena.close()
	}
	if p.cwd != "" {
		_ = sandbox.Remove(p.cwd)
	}
}

// ended waits for the end of a process that has closed its socket, and says how it ended.
func (p *process) ended() string {
	select {
	case <-p.box.Exited():
	case <-time.After(time.Second): // it has closed the socket and lives on
		p.kill()
		<-p.box.Exited()
		return "the worker process closed its connection"
	}
	<-p.logged
	exit := p.box.Wait()
	switch {
	case exit.OutOfMemory:
		return fmt.Sprintf("the worker process used more than %s of memory (--memory)", size(p.memory))
	case exit.ScratchFull:
		return fmt.Sprintf("the worker process filled its temporary directory with more than %s", size(min(p.memory, sandbox.DefaultScratch)))
	case exit.Signal != 0:
		name := unix.SignalName(exit.Signal)
		if exit.Signal == syscall.SIGKILL {
			name += "; out of memory?"
		}
		return fmt.Sprintf("the worker process was killed by signal %d (%s)", exit.Signal, name)
	}
	return fmt.Sprintf("the worker process ended with exit status %d", exit.Code)
}

// size prints a number of bytes as people write it: 2 GiB, 1.5 MiB.
func size(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.4g %s", value, units[unit])
}

// load sends the definition and waits for the worker's word on it.
func (s *spawner) load(ctx context.Context, p *process) error {
	args, err := s.def.MergeArgs(Args("{}"))
	if err != nil {
		return err
	}
	init, err := json.Marshal(map[string]any{
		"name": s.def.Name, "level": s.def.Level, "source": s.def.Source, "pickle": s.def.Pickle, "entry": s.def.Entry,
		"python": s.def.Python, "requirements": s.checked(), "args": args,
		"max_sample": s.outputLimit(), "max_stream": s.def.Limits.Output,
	})
	if err != nil {
		return err
	}
	deadline := time.Now().Add(s.opts.StartTimeout)
	err = p.tick.watch(50*time.Millisecond, func() error {
		if time.Now().After(deadline) {
			return errTimedOut
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	_ = p.conn.SetWriteDeadline(deadline)
	if err = p.writer.control(requestInit, 0, 0, init); err == nil {
		err = p.writer.flush()
	}
	_ = p.conn.SetWriteDeadline(time.Time{})
	var res result
	if err == nil {
		res, err = p.frames.next(0, nil)
	}
	fault := &UserError{ETL: s.def.Name}
	switch {
	case err == nil && res.kind == resultReady:
		p.stream = res.flags&flagStreams != 0
		return nil
	case err == nil && res.kind == resultBroken:
		fault.Summary, fault.Traceback = res.summary, res.traceback
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errTimedOut):
		fault.Summary = fmt.Sprintf("the source did not load within %s", s.opts.StartTimeout)
	default:
		fault.Summary = p.ended() + " while it loaded the source"
		fault.Traceback = strings.TrimSpace(p.tail.String())
	}
	return fault
}
