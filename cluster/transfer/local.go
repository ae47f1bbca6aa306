package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/shardstream/shardstream/core/backend"
)

// Local is a folder of this machine. Nothing outside of it is written, whatever names and links say; links in it that
// lead out are not read either, unless follow is set.
type Local struct {
	dir    string // as the user wrote it, ending in a slash
	follow bool   // read what links lead to, wherever that is

	mu      sync.Mutex
	root    *os.Root // nil until it is there
	touched map[string]bool
	folded  map[string]string // of a file system that does not tell cases apart: names by their folded form
	probed  bool
}

// NewLocal makes a side of a folder, which may not exist yet.
func NewLocal(dir string, follow bool) *Local {
	return &Local{dir: strings.TrimSuffix(cmp.Or(dir, "."), "/") + "/", follow: follow, touched: map[string]bool{}}
}

func (l *Local) String() string { return l.dir }

// Sites implements Side.
func (l *Local) Sites() []Site {
	at, err := filepath.Abs(l.dir)
	if err != nil {
		at = filepath.Clean(l.dir)
	}
	// Of a folder that is not there yet, what is there above it decides.
	missing := ""
	for {
		resolved, err := filepath.EvalSymlinks(at)
		if err == nil {
			at = filepath.Join(resolved, missing)
			break
		}
		if at == filepath.Dir(at) {
			break
		}
		missing, at = filepath.Join(filepath.Base(at), missing), filepath.Dir(at)
	}
	return []Site{{Store: "file", Path: strings.TrimSuffix(filepath.ToSlash(at), "/") + "/"}}
}

// open opens the folder, and makes it where it is to be written.
func (l *Local) open(create bool) (*os.Root, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.root != nil {
		return l.root, nil
	}
	if create {
		if err := os.MkdirAll(l.dir, 0o777); err != nil { //nolint:gosec // the user's umask decides
			return nil, err
		}
	}
	root, err := os.OpenRoot(l.dir)
	if err == nil {
		l.root = root
	}
	return root, err
}

// List implements Side. Files are those that are regular, and links to such; links to folders are not followed: they may
// lead round in a circle.
func (l *Local) List(ctx context.Context, prefix string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		root, err := l.open(false)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(File{}, l.failure("list", "", err))
			return
		}
		l.walk(ctx, root, "", prefix, yield)
	}
}

// walk goes through one folder in the order of whole names, where "a.b" comes before "a/b".
func (l *Local) walk(ctx context.Context, root *os.Root, folder, prefix string, yield func(File, error) bool) bool {
	if err := context.Cause(ctx); err != nil {
		yield(File{}, err)
		return false
	}
	entries, err := fs.ReadDir(root.FS(), cmp.Or(strings.TrimSuffix(folder, "/"), "."))
	if err != nil && !yield(File{}, l.failure("list", folder, err)) {
		return false
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(sortName(a), sortName(b)) })
	for _, entry := range entries {
		name := folder + sortName(entry)
		switch {
		case entry.IsDir():
			if strings.HasPrefix(name, prefix) || strings.HasPrefix(prefix, name) {
				if !l.walk(ctx, root, name, prefix, yield) {
					return false
				}
			}
		case !strings.HasPrefix(name, prefix) || isPart(entry.Name()):
		default:
			file, ok := l.describe(root, name)
			if ok && !yield(file, nil) {
				return false
			}
		}
	}
	return true
}

func sortName(entry fs.DirEntry) string {
	if entry.IsDir() {
		return entry.Name() + "/"
	}
	return entry.Name()
}

// describe describes what a folder has, false where that is no file. Of a link that leads nowhere, or out, the size is
// not known: opening it says why.
func (l *Local) describe(root *os.Root, name string) (File, bool) {
	info, err := l.stat(root, name)
	if err != nil {
		far, farErr := os.Stat(filepath.Join(l.dir, filepath.FromSlash(name)))
		isFile := farErr != nil || far.Mode().IsRegular()
		return File{Entry: backend.Entry{Name: name, Size: -1}}, isFile && (!errors.Is(err, fs.ErrNotExist) || isLink(root, name))
	}
	return fileOf(name, info), info.Mode().IsRegular()
}

func isLink(root *os.Root, name string) bool {
	info, err := root.Lstat(name)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

func (l *Local) stat(root *os.Root, name string) (fs.FileInfo, error) {
	if l.follow {
		return os.Stat(filepath.Join(l.dir, filepath.FromSlash(name)))
	}
	return root.Stat(name)
}

// fileOf describes a file; its tag changes with whatever a file system notes of a change.
func fileOf(name string, info fs.FileInfo) File {
	tag := fmt.Sprintf("%x-%x", info.Size(), info.ModTime().UnixNano())
	if system, ok := info.Sys().(*syscall.Stat_t); ok {
		tag = fmt.Sprintf("%s-%x", tag, system.Ino)
	}
	return File{Entry: backend.Entry{Name: name, Size: info.Size(), Modified: info.ModTime(), Tag: tag}}
}

// Stat implements Side.
func (l *Local) Stat(_ context.Context, name string) (File, error) {
	root, err := l.open(false)
	if err != nil {
		return File{}, l.failure("stat", name, err)
	}
	info, err := l.stat(root, name)
	if err == nil && !info.Mode().IsRegular() {
		err = errNoFile(info.Mode())
	}
	if err != nil {
		return File{}, l.failure("stat", name, err)
	}
	return fileOf(name, info), nil
}

func errNoFile(mode fs.FileMode) error {
	if mode.IsDir() {
		return errors.New("it is a folder")
	}
	return errors.New("it is no regular file")
}

// Open implements Side.
func (l *Local) Open(_ context.Context, name string, offset int64, tag string) (io.ReadCloser, error) {
	root, err := l.open(false)
	if err != nil {
		return nil, l.failure("open", name, err)
	}
	file, err := l.openFile(root, name)
	if err != nil {
		return nil, l.failure("open", name, err)
	}
	r := &localReader{File: file, side: l, name: name, tag: tag}
	if err := r.unchanged(); err != nil {
		_ = file.Close()
		return nil, err
	}
	if _, err := file.Seek(offset, io.SeekStart); err != nil {
		_ = file.Close()
		return nil, l.failure("open", name, err)
	}
	return r, nil
}

// openFile opens what is a regular file; opening a pipe would wait for who writes to it.
func (l *Local) openFile(root *os.Root, name string) (*os.File, error) {
	const flags = os.O_RDONLY | syscall.O_NONBLOCK
	if l.follow {
		return os.OpenFile(filepath.Join(l.dir, filepath.FromSlash(name)), flags, 0)
	}
	return root.OpenFile(name, flags, 0)
}

// localReader reads a file, and notices at its end where it was changed under the reading.
type localReader struct {
	*os.File
	side *Local
	name string
	tag  string // "": any
}

func (r *localReader) unchanged() error {
	info, err := r.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNoFile(info.Mode())
	}
	if err != nil {
		return r.side.failure("open", r.name, err)
	}
	if r.tag == "" {
		r.tag = fileOf(r.name, info).Tag
	}
	if fileOf(r.name, info).Tag != r.tag {
		return failure(r.side, "read", r.name, backend.Changed, errors.New("it was changed while it was copied"))
	}
	return nil
}

// Read implements io.Reader.
func (r *localReader) Read(p []byte) (int, error) {
	n, err := r.File.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if changed := r.unchanged(); changed != nil {
		return n, changed
	}
	return n, io.EOF
}

// Delete implements Side. Folders that are empty then go too.
func (l *Local) Delete(_ context.Context, name string) error {
	if err := checkLocalName(name); err != nil {
		return l.failure("delete", name, err)
	}
	root, err := l.open(false)
	if err == nil {
		err = root.Remove(name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return l.failure("delete", name, err)
	}
	for folder := path.Dir(name); root != nil && folder != "."; folder = path.Dir(folder) {
		if root.Remove(folder) != nil {
			break // not empty
		}
	}
	l.touch(path.Dir(name))
	return nil
}

// failure says what went wrong with a file in terms of this package.
func (l *Local) failure(op, name string, err error) error {
	kind := backend.Failed
	var at *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind, err = backend.NotFound, nil
	case errors.Is(err, fs.ErrPermission):
		kind = backend.Denied
	}
	if errors.As(err, &at) {
		err = at.Err
		if strings.Contains(err.Error(), "escapes") {
			err = fmt.Errorf("it is a link out of %s; --follow-links reads what such lead to", l.dir)
		}
	}
	return failure(l, op, name, kind, err)
}

// touch notes a folder whose names have changed, and those above it, which may have been made for it.
func (l *Local) touch(folder string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; !l.touched[folder]; folder = path.Dir(folder) {
		l.touched[folder] = true
	}
}

// Close implements Side: new names are durable once their folders are.
func (l *Local) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.root == nil {
		return nil
	}
	var failed error
	for folder := range l.touched {
		if err := syncFolder(l.root, folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, err)
		}
	}
	failed = errors.Join(failed, l.root.Close())
	l.root = nil
	return failed
}

func syncFolder(root *os.Root, folder string) error {
	at, err := root.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(at.Sync(), at.Close())
}
