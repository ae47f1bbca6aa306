package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOrders are what a program of level landlock finds changed in the mount namespace that it has for itself.
type mountOrders struct {
	Scratch string   // becomes a file system in memory
	Size    int64    // of that, and of the one for shared memory
	ID      int      // the user that the program runs under
	Expose  []string // paths that it may use
}

const sharedMemory = "/dev/shm"

// make mounts. It says whether /proc shows the program's own processes only, so that all of it may be read.
func (m *mountOrders) make() (ownProc bool, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return false, fmt.Errorf("keep mounts to itself: %w", err)
	}
	if err := m.cover(); err != nil {
		return false, err
	}
	if m.ID != os.Getuid() {
		ownProc = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "hidepid=invisible") == nil
	}
	for _, dir := range []string{m.Scratch, sharedMemory} {
		options := fmt.Sprintf("size=%d,mode=0700,uid=%d,gid=%d", m.Size, m.ID, gidOf(m.ID))
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return false, fmt.Errorf("mount a file system in memory on %s: %w", dir, err)
		}
	}
	return ownProc, nil
}

// gidOf is the group of a user that we made up, or of this process.
func gidOf(id int) int {
	if id == os.Getuid() {
		return os.Getgid()
	}
	return id
}

// uncovered are the directories below the root that stay as they are: landlock says what of them may be read.
var uncovered = append([]string{"/proc", "/sys", "/dev", "/etc"}, system...)

// cover lays an empty directory over every other one below the root, with only the paths in it that the program may use.
// Landlock keeps files from a program, but not the Unix sockets among them: it could connect to those of the machine's
// services. The covers also make a way to what can't be reached as another user, such as an interpreter below /root.
func (m *mountOrders) cover() error {
	top, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range top {
		dir := "/" + e.Name()
		if !e.IsDir() || slices.Contains(uncovered, dir) || slices.Contains(m.Expose, dir) {
			continue
		}
		if err := m.lay(dir); err != nil {
			return err
		}
	}
	if m.ID == os.Getuid() {
		return nil
	}
	for _, path := range m.Expose {
		if bar := barrier(path); bar != "" {
			if err := m.lay(bar); err != nil {
				return err
			}
		}
	}
	return nil
}

// lay covers one directory.
func (m *mountOrders) lay(dir string) error {
	var shown []string
	for _, path := range m.Expose {
		if strings.HasPrefix(path, dir+"/") {
			shown = append(shown, path)
		}
	}
	if err := reopen(dir, shown); err != nil {
		return fmt.Errorf("show nothing of %s but %s: %w", dir, strings.Join(shown, ", "), err)
	}
	return nil
}

// barrier is the topmost directory above a path that others may not pass; empty if there is none.
func barrier(path string) string {
	for i := 1; i < len(path); i++ {
		if path[i] != '/' {
			continue
		}
		if info, err := os.Stat(path[:i]); err == nil && info.Mode().Perm()&0o001 == 0 {
			return path[:i]
		}
	}
	return ""
}

func reopen(bar string, paths []string) error {
	slices.Sort(paths)
	trees := make([]int, 0, len(paths))
	kept := make([]string, 0, len(paths))
	for _, path := range slices.Compact(paths) {
		if len(kept) > 0 && strings.HasPrefix(path, kept[len(kept)-1]+"/") {
			continue // comes with the one above it
		}
		tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return err
		}
		trees, kept = append(trees, tree), append(kept, path)
	}
	if err := unix.Mount("tmpfs", bar, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return err
	}
	for i, path := range kept {
		if err := place(trees[i], path); err != nil {
			return err
		}
	}
	return unix.Mount("", bar, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m")
}

// place attaches a detached tree at a path, which is made.
func place(tree int, path string) error {
	defer func() { _ = unix.Close(tree) }()
	var stat unix.Stat_t
	if err := unix.Fstat(tree, &stat); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // so that another user may pass
		return err
	}
	var err error
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(path, 0o755) //nolint:gosec // is covered at once
	} else {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
