package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Users that a node which is root runs programs under: one for each program, so that limits of processes, files and
// signals of one don't touch those of another. The range is one that systems don't give to people or services; a number
// in it is made of the node's pid and the program's place.
const (
	firstID    = 1 << 30
	idsPerNode = 256
	pidBits    = 22 // of the largest pid that Linux gives out
	nobody     = 65534
)

// identities gives out users to programs.
type identities struct {
	mu    sync.Mutex
	taken [idsPerNode]bool
}

// take returns a user that no other program of this node has, as far as there are any, and how to give it back.
func (ids *identities) take() (id int, release func()) {
	ids.mu.Lock()
	defer ids.mu.Unlock()
	base := firstID + (os.Getpid()&(1<<pidBits-1))*idsPerNode
	if !mapped(base + idsPerNode) {
		return nobody, func() {}
	}
	i := slices.Index(ids.taken[:], false)
	if i < 0 {
		return base + idsPerNode - 1, func() {}
	}
	ids.taken[i] = true
	return base + i, func() {
		ids.mu.Lock()
		defer ids.mu.Unlock()
		ids.taken[i] = false
	}
}

// mapped says whether a user exists in the namespace of this process.
func mapped(id int) bool {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		var inside, outside, count int64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err == nil && int64(id) >= inside && int64(id) < inside+count {
			return true
		}
	}
	return false
}

// killUser ends everything that a user of ours runs. It is for where there is no control group to be sure by.
func killUser(id int) {
	for range 100 {
		found := false
		processes, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range processes {
			info, err := os.Stat(dir)
			if err != nil {
				continue
			}
			stat, ok := info.Sys().(*syscall.Stat_t)
			pid, err := strconv.Atoi(filepath.Base(dir))
			if ok && err == nil && int(stat.Uid) == id && !isZombie(pid) {
				found = true
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if !found {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func isZombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true // gone altogether
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// threadsOf counts what a limit of processes counts for a user.
func threadsOf(uid int) int {
	n := 0
	processes, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, path := range processes {
		status, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		mine, threads := false, 0
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			fields := strings.Fields(value)
			switch {
			case name == "Uid" && len(fields) > 0:
				mine = fields[0] == strconv.Itoa(uid)
			case name == "Threads" && len(fields) > 0:
				threads, _ = strconv.Atoi(fields[0])
			}
		}
		if mine {
			n += threads
		}
	}
	return n
}
