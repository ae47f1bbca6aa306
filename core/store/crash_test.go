package store_test

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/store/failpoint"
)

// crashDirs makes the test binary a child that puts objects on these disks until it is killed.
const crashDirs = "SHARDSTREAM_TEST_CRASH_DIRS"

// crashStep is the failpoint, if any, at which the child kills itself.
const crashStep = "SHARDSTREAM_TEST_CRASH_STEP"

const crashWriters = 4

// crashBody is what the nth PUT of a name holds: found again from name and n alone.
func crashBody(name string, n int) []byte {
	seed := uint64(n)
	for _, c := range name {
		seed = seed*31 + uint64(c)
	}
	head := fmt.Sprintf("%s %d\n", name, n)
	return append([]byte(head), payload(seed, int(seed*7919%300_000))...)
}

// putUntilKilled overwrites and deletes a few names, and says on stdout what it is about to do and what was acknowledged.
func putUntilKilled(dirs []string) {
	s, err := store.Open(options(dirs...))
	if err != nil {
		fmt.Println("fail", err)
		os.Exit(1)
	}
	if step := os.Getenv(crashStep); step != "" {
		if err := failpoint.Kill(step); err != nil {
			fmt.Println("fail", err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	var wg sync.WaitGroup
	for w := range crashWriters {
		wg.Go(func() {
			for n := int(time.Now().UnixNano() & 0xffffffff); ; n++ {
				name := fmt.Sprintf("w%d-%d", w, n%7)
				if n%11 == 10 {
					say("try %s 0", name)
					_ = s.Delete(ctx, "b", name, store.Condition{})
					say("ack %s 0", name)
					continue
				}
				say("try %s %d", name, n)
				if _, err := s.Put(ctx, "b", name, bytes.NewReader(crashBody(name, n)), store.PutOptions{Size: -1}); err != nil {
					say("fail %v", err)
					os.Exit(1)
				}
				say("ack %s %d", name, n)
			}
		})
	}
	wg.Wait()
}

// ledger is what a process that was killed has acknowledged.
type ledger struct {
	o     store.Options
	acked map[string]string // name -> the n that was acknowledged last; "0": deleted
	total int
}

// round runs a child until it is killed, after a while or at a step, and looks at what it has left: what it acknowledged
// is there and identical, what it had begun is there whole or not at all, and no debris is.
func (l *ledger) round(t *testing.T, life time.Duration, step string) {
	t.Helper()
	pending := map[string]string{}
	l.total += crashRound(t, l.o, life, step, l.acked, pending)
	s, err := store.Open(l.o)
	require.NoError(t, err)
	objects := 0
	for name, n := range l.acked {
		allowed := []string{n}
		if p, ok := pending[name]; ok {
			allowed = append(allowed, p)
		}
		got, exists := held(t, s, name)
		require.Contains(t, allowed, got, "object %s", name)
		l.acked[name] = got
		if exists {
			objects++
		}
	}
	for name := range pending {
		if _, known := l.acked[name]; !known {
			if n, exists := held(t, s, name); exists {
				l.acked[name] = n
				objects++
			}
		}
	}
	clean(t, s, l.o, objects)
	require.NoError(t, s.Close())
}

// TestKilledInMidPut kills a process that puts and deletes, again and again.
func TestKilledInMidPut(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	l := &ledger{o: options(t.TempDir(), t.TempDir()), acked: map[string]string{}}
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for range rounds {
		l.round(t, time.Duration(20+r.IntN(400))*time.Millisecond, "")
	}
	require.Positive(t, l.total)
	t.Logf("%d acknowledged changes over %d kills", l.total, rounds)
}

// TestKilledAtSteps kills such a process at each step of a put and of a delete.
func TestKilledAtSteps(t *testing.T) {
	l := &ledger{o: options(t.TempDir(), t.TempDir()), acked: map[string]string{}}
	for _, step := range []string{
		"write/created", "write/payload", "finish/trailer", "finish/synced", "publish/renamed", "publish/synced", "install/recorded",
		"remove/dropped", "unlink/removed",
	} {
		l.round(t, time.Minute, "store/"+step+":9")
	}
	require.Positive(t, l.total)
}

// held says which PUT's body an object has, and checks all of it.
func held(t *testing.T, s *store.Store, name string) (n string, exists bool) {
	t.Helper()
	if _, err := s.Stat("b", name); err != nil {
		require.ErrorIs(t, err, store.ErrNotFound)
		return "0", false
	}
	data := read(t, s, "b", name)
	var number int
	head, _, _ := strings.Cut(string(data), "\n")
	_, err := fmt.Sscanf(head, name+" %d", &number)
	require.NoError(t, err, head)
	require.True(t, bytes.Equal(crashBody(name, number), data), "object %s", name)
	return fmt.Sprint(number), true
}

// crashRound runs a child that is killed after a while, or kills itself at a step; it returns how many changes were acknowledged.
func crashRound(t *testing.T, o store.Options, life time.Duration, step string, acked, pending map[string]string) (acks int) {
	t.Helper()
	var dirs []string
	for _, d := range o.Disks {
		dirs = append(dirs, d.Path)
	}
	child := exec.Command(os.Args[0], "-test.run=^$") // this very binary
	child.Env = append(os.Environ(), crashDirs+"="+strings.Join(dirs, ","), crashStep+"="+step)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	child.Stderr = os.Stderr
	require.NoError(t, child.Start())
	var once sync.Once
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		word := strings.Fields(lines.Text())
		switch {
		case len(word) == 1 && word[0] == "ready":
			once.Do(func() { time.AfterFunc(life, func() { _ = child.Process.Kill() }) })
		case len(word) == 3 && word[0] == "try":
			pending[word[1]] = word[2]
		case len(word) == 3 && word[0] == "ack":
			acked[word[1]] = word[2]
			delete(pending, word[1])
			acks++
		default:
			t.Errorf("child says %q", lines.Text())
		}
	}
	_ = child.Wait()
	status, ok := child.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok && status.Signal() == syscall.SIGKILL, "%v", child.ProcessState)
	return acks
}
