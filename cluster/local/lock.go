package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// supervisorName is the supervisor's name among pid files and logs.
const supervisorName = "supervisor"

// lock is the supervisor's hold on its pid file. It is a POSIX record lock: the kernel drops it with
// the process, children don't inherit it, and F_GETLK names the process that holds it, so that the
// pid which `down` signals is the kernel's word and not that of a stale file.
type lock struct{ file *os.File }

// RunningError says that the directory's cluster is up already.
type RunningError struct {
	Dir string
	PID int
}

func (e *RunningError) Error() string {
	return fmt.Sprintf("the cluster in %s is running already (supervisor pid %d); stop it with `shardstream down --dir %s`", e.Dir, e.PID, e.Dir)
}

// acquire takes the lock and writes the pid of this process.
func acquire(layout Layout) (*lock, error) {
	file, err := os.OpenFile(layout.pid(supervisorName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	request := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_SETLK, &request); err != nil {
		pid := holderOf(file)
		_ = file.Close()
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAGAIN) {
			return nil, &RunningError{Dir: layout.Dir, PID: pid}
		}
		return nil, fmt.Errorf("lock %s: %w; its file system must support locks: choose another --dir", file.Name(), err)
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &lock{file: file}, nil
}

// release empties and unlocks the file. It stays: to remove it would let two processes lock two
// files of one name.
func (l *lock) release() error { return errors.Join(l.file.Truncate(0), l.file.Close()) }

// Running is the pid of the supervisor of dir, 0 where none runs.
func Running(dir string) (int, error) {
	layout, err := NewLayout(dir)
	if err != nil {
		return 0, err
	}
	file, err := os.OpenFile(layout.pid(supervisorName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return holderOf(file), nil
}

func holderOf(file *os.File) int {
	request := unix.Flock_t{Type: unix.F_WRLCK}
	if unix.FcntlFlock(file.Fd(), unix.F_GETLK, &request) != nil || request.Type == unix.F_UNLCK {
		return 0
	}
	return int(request.Pid)
}
