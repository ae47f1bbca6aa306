package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// bubblewrap finds the program; empty if it is not installed.
func bubblewrap() string {
	path, err := exec.LookPath("bwrap")
	if err != nil {
		return ""
	}
	if path, err = filepath.Abs(path); err != nil {
		return ""
	}
	return path
}

// wrap are bubblewrap's arguments for a spec. As root it makes no user namespace: it sets up mounts with the rights of
// root, so that paths which only root can reach can be shown, and the child then becomes another user.
func (s *Spec) wrap(root bool) []string {
	args := []string{
		"--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox",
		"--die-with-parent", "--new-session", "--cap-drop", "ALL",
	}
	if root {
		args = append(args, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP")
	} else {
		args = append(args, "--unshare-user")
	}
	if !s.Network {
		args = append(args, "--unshare-net")
	}
	for _, dir := range system {
		info, err := os.Lstat(dir)
		if err != nil {
			continue
		}
		if target, err := os.Readlink(dir); err == nil && info.Mode()&os.ModeSymlink != 0 {
			args = append(args, "--symlink", target, dir)
		} else {
			args = append(args, "--ro-bind", dir, dir)
		}
	}
	size := strconv.FormatInt(s.Limits.Scratch, 10)
	args = append(args, "--proc", "/proc", "--dev", "/dev",
		"--perms", "1777", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
		"--perms", "1777", "--size", size, "--tmpfs", "/tmp")
	args = append(args, s.binds()...)
	return append(args, "--perms", "0777", "--size", size, "--tmpfs", s.Dir, "--remount-ro", "/", "--chdir", "/")
}

// binds shows and hides the paths of the spec.
func (s *Spec) binds() []string {
	l := layout{kinds: map[string]use{}, made: map[string]bool{"/": true, "/tmp": true}}
	for _, e := range s.entries() {
		if e.use == useHide {
			l.hide(e.path)
		} else {
			l.show(e.path, e.use)
		}
	}
	l.lead(s.Dir)
	for _, path := range l.masked {
		l.args = append(l.args, "--remount-ro", path)
	}
	return l.args
}

// layout gathers the arguments that build a root.
type layout struct {
	args   []string
	kinds  map[string]use
	made   map[string]bool
	masked []string // directories that hide others
}

func (l *layout) show(path string, u use) {
	l.lead(path)
	bind := "--ro-bind"
	if u == useWrite {
		bind = "--bind"
	}
	l.args = append(l.args, bind, path, path)
	l.kinds[path] = u
}

// hide masks what is there to be seen; what is not shown needs no mask.
func (l *layout) hide(path string) {
	if u, ok := l.above(path); !below(path, system) && (!ok || u == useHide) {
		return
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		l.args = append(l.args, "--perms", "0755", "--tmpfs", path)
		l.masked = append(l.masked, path)
	} else {
		l.args = append(l.args, "--ro-bind", os.DevNull, path)
	}
	l.kinds[path] = useHide
}

// above is what was done to the nearest directory over a path.
func (l *layout) above(path string) (use, bool) {
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if u, ok := l.kinds[dir]; ok {
			return u, true
		}
	}
	return 0, false
}

// lead makes the way to a path passable, which bubblewrap does only where it finds the source to be so.
func (l *layout) lead(path string) {
	if u, ok := l.above(path); ok && u != useHide {
		return // it is there
	}
	var way []string
	for dir := filepath.Dir(path); !l.made[dir]; dir = filepath.Dir(dir) {
		if _, masked := l.kinds[dir]; masked {
			break
		}
		l.made[dir] = true
		way = append(way, dir)
	}
	for _, dir := range slices.Backward(way) {
		l.args = append(l.args, "--perms", "0755", "--dir", dir)
	}
}

// wrapFault is why bubblewrap did not start the program, in words that help.
func wrapFault(said string) string {
	said = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(said), "bwrap: "))
	if said == "" {
		return "bubblewrap ended without a word"
	}
	if strings.Contains(said, "ermission") || strings.Contains(said, "not permitted") {
		return "bubblewrap may not make namespaces here (" + said + "): allow unprivileged user namespaces " +
			"(sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile for bwrap), or give the node's container CAP_SYS_ADMIN"
	}
	return "bubblewrap: " + said
}
