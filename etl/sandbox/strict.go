package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
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
	var args, shown []string
	for _, e := range s.entries() {
		switch e.use {
		case useRead:
			args = append(args, "--ro-bind", e.path, e.path)
			shown = append(shown, e.path)
		case useWrite:
			args = append(args, "--bind", e.path, e.path)
			shown = append(shown, e.path)
		case useHide:
			if !below(e.path, shown) && !below(e.path, system) {
				continue
			}
			if info, err := os.Stat(e.path); err == nil && info.IsDir() {
				args = append(args, "--perms", "0555", "--tmpfs", e.path, "--remount-ro", e.path)
			} else {
				args = append(args, "--ro-bind", os.DevNull, e.path)
			}
		}
	}
	return args
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
