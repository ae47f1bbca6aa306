package etl_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/sandbox"
)

// victims are what a hostile function would like to reach of the node that this test is.
type victims struct {
	key      string // a file of the node, with a secret in it
	tcp, udp string // addresses that it listens on
	socket   string // an abstract Unix socket
	path     string // a Unix socket that every user may connect to
	keyring  int    // of its session
	reached  func() bool
}

const secret = "the node's secret"

func newVictims(t *testing.T) victims {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.Mkdir(dir, 0o700))
	key := filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(key, []byte(secret), 0o600))
	t.Setenv("SHARDSTREAM_TOKEN", secret)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	name := fmt.Sprintf("shardstream-hostile-test-%d", time.Now().UnixNano())
	abstract, err := net.Listen("unix", "@"+name)
	require.NoError(t, err)
	open, err := os.MkdirTemp("", "hostile-") // t.TempDir lies below a directory that is closed to others
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(open) })
	require.NoError(t, os.Chmod(open, 0o755))
	path := filepath.Join(open, "socket")
	named, err := net.Listen("unix", path)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(path, 0o777))
	keyring, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
	if err != nil {
		keyring = -2 // there is none
	}
	t.Cleanup(func() { _ = errors.Join(tcp.Close(), udp.Close(), abstract.Close(), named.Close()) })
	return victims{
		key: key, tcp: tcp.Addr().String(), udp: udp.LocalAddr().String(), socket: name, path: path, keyring: keyring,
		reached: func() bool { // what was sent lies in the sockets' queues
			now := time.Now().Add(20 * time.Millisecond)
			_ = errors.Join(tcp.(*net.TCPListener).SetDeadline(now), udp.SetDeadline(now), abstract.(*net.UnixListener).SetDeadline(now), named.(*net.UnixListener).SetDeadline(now))
			_, a := tcp.Accept()
			_, b := abstract.Accept()
			_, _, c := udp.ReadFrom(make([]byte, 10))
			_, d := named.Accept()
			return a == nil || b == nil || c == nil || d == nil
		},
	}
}

// attack is what a function does to the sample "bad", and how that request must end.
type attack struct {
	code string
	want []string // one of them is in the error; none: it returns, and has seen nothing
	not  string   // level at which it can't be held off
	ends bool     // only at its time limit, or maybe so
}

func (v victims) attacks() map[string]attack {
	host, port, _ := net.SplitHostPort(v.tcp)
	_, udp, _ := net.SplitHostPort(v.udp)
	node := os.Getpid()
	denied := []string{"PermissionError", "FileNotFoundError", "ProcessLookupError"}
	bomb := []string{"Resource temporarily unavailable", "used more than 256 MiB of memory", "timed out"} // what is met first
	cutOff := []string{"OSError", "PermissionError", "ConnectionRefusedError", "Network is unreachable"}
	return map[string]attack{
		"loop":          {code: "while True: pass", want: []string{"timed out"}, ends: true},
		"fork bomb":     {code: "while True: os.fork()", want: bomb, ends: true},
		"quiet bomb":    {code: "while True:\n            try: os.fork()\n            except OSError: pass", want: bomb, ends: true},
		"threads":       {code: "while True: threading.Thread(target=time.sleep, args=(100,)).start()", want: []string{"can't start new thread"}},
		"memory":        {code: "x = bytearray(10 << 30)", want: []string{"used more than 256 MiB of memory (--memory)", "MemoryError"}},
		"memory, slow":  {code: "x = []\n        while True: x.append(bytearray(1 << 20))", want: []string{"used more than 256 MiB of memory (--memory)", "MemoryError"}},
		"exit":          {code: "os._exit(7)", want: []string{"exit status 7"}},
		"segfault":      {code: "ctypes.string_at(0)", want: []string{"SIGSEGV"}},
		"output":        {code: "return {'x': bytes(1 << 30)}", want: []string{"1048576 are allowed (max_output)", "used more than 256 MiB of memory (--memory)", "MemoryError"}},
		"large output":  {code: "return {'x': bytes(2 << 20)}", want: []string{"2097152 bytes for one sample; 1048576 are allowed (max_output)"}},
		"print":         {code: "line = 'x' * 1023\n        for _ in range(1 << 20): print(line)\n        return {}", want: []string{"timed out", ""}},
		"disk":          {code: "for i in range(100):\n            with open(f'f{i}', 'wb') as f:\n                for _ in range(64): f.write(bytes(1 << 20))\n                if i % 10 == 0: time.sleep(0.2)", want: []string{"No space left on device", "File too large", "used more than 256 MiB", "filled its temporary directory"}},
		"one big file":  {code: "with open('f', 'wb') as f:\n            while True: f.write(bytes(1 << 20))", want: []string{"No space left on device", "File too large", "used more than 256 MiB", "filled its temporary directory"}},
		"read a key":    {code: fmt.Sprintf("return {'x': open(%q, 'rb').read()}", v.key), want: denied, not: sandbox.None},
		"list data":     {code: fmt.Sprintf("return {'x': str(os.listdir(%q))}", filepath.Dir(v.key)), want: denied, not: sandbox.None},
		"change data":   {code: fmt.Sprintf("os.rename(%q, %q)", v.key, v.key+"2"), want: append(denied, "OSError"), not: sandbox.None},
		"environment":   {code: "return {'x': str(dict(os.environ))}"},
		"node's env":    {code: fmt.Sprintf("return {'x': open('/proc/%d/environ', 'rb').read()}", node), want: denied, not: sandbox.None},
		"node's memory": {code: fmt.Sprintf("open('/proc/%d/mem', 'rb').read(1)", node), want: denied, not: sandbox.None},
		"node's files":  {code: fmt.Sprintf("os.listdir('/proc/%d/fd')", node), want: denied, not: sandbox.None},
		"any process":   {code: "return {'x': b''.join(open(f'/proc/{p}/environ', 'rb').read() for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid())}", want: append(denied, ""), not: sandbox.None},
		"tcp":           {code: fmt.Sprintf("socket.create_connection((%q, %s), 2).send(b'x')", host, port), want: cutOff, not: sandbox.None},
		"udp":           {code: fmt.Sprintf("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', (%q, %s))\n        return {}", host, udp), want: append(cutOff, ""), not: sandbox.None},
		"abstract":      {code: fmt.Sprintf("socket.socket(socket.AF_UNIX).connect('\\0%s')", v.socket), want: cutOff, not: sandbox.None},
		"named socket":  {code: fmt.Sprintf("socket.socket(socket.AF_UNIX).connect(%q)", v.path), want: append(denied, "OSError"), not: sandbox.None},
		"session keys":  {code: fmt.Sprintf("if ctypes.CDLL(None).syscall(%d, 0, -3, 0) == %d: return {'x': %q}\n        return {}", unix.SYS_KEYCTL, v.keyring, secret), not: sandbox.None},
		"kill the node": {code: fmt.Sprintf("os.kill(%d, 9)", node), want: denied, not: sandbox.None},
		"kill parent":   {code: "os.kill(os.getppid(), 9)", want: append(denied, "killed by signal", "exit status", ""), not: sandbox.None},
		"kill all":      {code: "os.kill(-1, 9)\n        time.sleep(100)", want: append(denied, "killed by signal", "timed out"), not: sandbox.None, ends: true},
		"ptrace":        {code: fmt.Sprintf("libc = ctypes.CDLL(None, use_errno=True)\n        if libc.ptrace(16, %d, 0, 0) == 0: return {'x': %q}\n        raise OSError(ctypes.get_errno(), 'ptrace')", node, secret), want: append(denied, "ptrace"), not: sandbox.None},
		"be root":       {code: "os.setuid(0)\n        return {'x': open('/etc/shadow').read()}", want: append(denied, "Invalid argument"), not: sandbox.None},
		"outlive":       {code: "if os.fork() == 0:\n            os.setsid()\n            if os.fork() == 0: time.sleep(1000)\n            os._exit(0)\n        return {}"},
		"write to /usr": {code: "open('/usr/hostile', 'w')", want: append(denied, "OSError"), not: sandbox.None},
	}
}

// Each attack is made by one request of a pool that others use meanwhile, at every level that the machine has.
func TestHostileFunctions(t *testing.T) {
	v := newVictims(t)
	for _, level := range levels(t) {
		t.Run(level, func(t *testing.T) {
			t.Cleanup(func() { require.False(t, v.reached(), "a function reached a socket of the node") })
			for name, a := range v.attacks() {
				if a.not == level {
					continue
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					v.strike(t, level, a)
				})
			}
		})
	}
}

// levels are the levels of isolation that this machine has, and whether it lacks one that it should have.
func levels(t *testing.T) []string {
	t.Helper()
	report, err := sandbox.Probe(t.Context())
	require.NoError(t, err)
	var there []string
	for _, level := range []string{sandbox.Strict, sandbox.Landlock, sandbox.None} {
		if _, err := report.Level(level); err != nil {
			t.Run(level, func(t *testing.T) { t.Skip(err) })
			continue
		}
		there = append(there, level)
	}
	return there
}

func (v victims) strike(t *testing.T, level string, a attack) {
	limit := 60 * time.Second // machines that run tests are busy
	if a.ends {
		limit = 3 * time.Second
	}
	pool := newPool(t, `
import ctypes, os, socket, threading, time
def transform(sample):
    if sample["n"] == b"bad":
        `+a.code+`
    return sample
`, timeout(limit), workers(2), isolation(level), func(d *etl.Definition, o *etl.Options) {
		d.Limits.Memory, d.Limits.Output = 256<<20, 1<<20
		o.Hide = []string{filepath.Dir(v.key)}
	})
	for _, r := range transform(t, pool, numbered(4)...) {
		require.NoError(t, r.Err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
	defer cancel()
	bad := make([]etl.Result, 1)
	done := make(chan error, 1)
	go func() { done <- pool.Transform(ctx, nil, []etl.Sample{sample("bad", "n", "bad")}, bad) }()
	served := 0
	for over := false; !over; served++ {
		select {
		case err := <-done:
			require.NoError(t, err, "the pool is unusable")
			over = true
		default:
		}
		for _, r := range transform(t, pool, numbered(2)...) {
			require.NoError(t, r.Err, "another's request")
		}
	}
	require.Positive(t, served)
	v.judge(t, a, bad[0])
	for _, r := range transform(t, pool, numbered(4)...) {
		require.NoError(t, r.Err, "the pool works on")
	}
}

// judge says whether a request ended as it must.
func (v victims) judge(t *testing.T, a attack, r etl.Result) {
	t.Helper()
	for _, f := range r.Fields {
		require.NotContains(t, string(f.Value.Data), secret)
	}
	require.FileExists(t, v.key)
	if r.Err == nil {
		require.True(t, len(a.want) == 0 || a.want[len(a.want)-1] == "", "it went through")
		return
	}
	require.NotEmpty(t, a.want, "%v", r.Err)
	summary := userError(t, r).Summary
	for _, want := range a.want {
		if strings.Contains(summary, want) {
			return
		}
	}
	require.Fail(t, "not the error that was expected", "%s; expected one of %q", summary, a.want)
}

// TestAnswersWithoutReading: a function that answers by itself, on the node's socket, and never reads what is being sent to
// it holds up nobody: its call ends within its time limit, and the pool works on and closes.
func TestAnswersWithoutReading(t *testing.T) {
	const answering = `
import array, fcntl, os, termios, time
from shardstream_worker import frames as f
def unread():
    n = array.array("i", [0])
    fcntl.ioctl(f.SOCKET_FD, termios.FIONREAD, n)
    return n[0]
def answer(kind, seq):
    before, same = -1, 0
    while same < 100: # until the node's side can send no more
        time.sleep(0.01)
        now = unread()
        before, same = now, same + 1 if now == before else 0
    os.write(f.SOCKET_FD, f.RESULT_HEAD.pack(f.RESULT_MAGIC, kind, 0, 0, seq, 0, 0, 0))
    time.sleep(1000)
`
	t.Run("an object", func(t *testing.T) {
		pool := newPool(t, answering+`
def transform(file: "BinaryIO"):
    if file.read(1) == b"x":
        answer(f.RESULT_DONE, 1)
    return b"well"
`, objects, timeout(5*time.Second))
		endless := io.MultiReader(strings.NewReader("x"), zeros(1<<40))
		ended := make(chan error, 1)
		go func() {
			out, err := pool.TransformObject(t.Context(), nil, etl.Object{Key: "k", Size: 1 + 1<<40, Body: endless})
			if err == nil {
				err = out.Body.Close()
			}
			ended <- err
		}()
		select {
		case err := <-ended:
			require.ErrorContains(t, err, "timed out")
		case <-time.After(time.Minute):
			t.Fatal("the call never ends")
		}
		got, err := transformWhole(t.Context(), pool, "abc")
		require.NoError(t, err)
		require.Equal(t, "well", got)
	})
}
