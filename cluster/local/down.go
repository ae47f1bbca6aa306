package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout bounds a clean stop: targets, then gateways, each within their grace.
const stopTimeout = 2*nodeGrace + 4*time.Second

// ErrNotRunning is returned by Down where there is nothing to stop.
var ErrNotRunning = errors.New("not running")

// Down stops the cluster of a directory; its data stays. A supervisor that does not end in time is
// killed, and its nodes with it.
func Down(ctx context.Context, dir string) error {
	layout, err := NewLayout(dir)
	if err != nil {
		return err
	}
	if _, err := LoadSpec(layout.Dir); err != nil {
		return err
	}
	pid, err := Running(layout.Dir)
	if err != nil {
		return err
	}
	if pid == 0 {
		return fmt.Errorf("the cluster in %s is %w", layout.Dir, ErrNotRunning)
	}
	// From here on the descriptor stands for that one process, even if its pid is used again. The
	// lock is asked once more, as the pid could have changed hands just before.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("reach supervisor %d of %s: %w", pid, layout.Dir, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing to lose
	if again, err := Running(layout.Dir); err != nil || again != pid {
		return errors.Join(err, fmt.Errorf("the cluster in %s is %w any more", layout.Dir, ErrNotRunning))
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("stop supervisor %d of %s: %w", pid, layout.Dir, err)
	}
	if ended, err := awaitEnd(ctx, fd, stopTimeout); ended || err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill supervisor %d of %s: %w", pid, layout.Dir, err)
	}
	if ended, err := awaitEnd(ctx, fd, 5*time.Second); !ended {
		return errors.Join(err, fmt.Errorf("supervisor %d of %s does not end", pid, layout.Dir))
	}
	return nil
}

// awaitEnd waits until the process behind a pidfd has ended.
func awaitEnd(ctx context.Context, fd int, limit time.Duration) (ended bool, err error) {
	deadline := time.Now().Add(limit)
	for time.Now().Before(deadline) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		// In slices, so that Ctrl-C is heard.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
		if n > 0 {
			return true, nil
		}
	}
	return false, nil
}
