package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shardstream/shardstream/core/store"
)

// machine is two disks of a computer that may die at any moment. Of what was written, it knows what is safe by then:
// the contents of files that were synced, under names whose directories were synced since.
type machine struct {
	t     testing.TB
	paths []string

	mu   sync.Mutex
	off  bool
	disk map[string]*machineDisk // by path
	meta map[string]*vfs.MemFS
}

// machineDisk keeps data files in memory; the rest of the disk, such as its lock, is a directory.
type machineDisk struct {
	store.FS
	m         *machine
	now, safe tree
	dirs      []fs.DirEntry // below data
}

// inode is a file: what it holds, and what of that is safe.
type inode struct{ now, safe []byte }

// tree is files by directory and name.
type tree map[string]map[string]*inode

func (t tree) at(name string) *inode { return t[path.Dir(name)][path.Base(name)] }

func (t tree) put(name string, i *inode) {
	dir := path.Dir(name)
	if t[dir] == nil {
		t[dir] = map[string]*inode{}
	}
	t[dir][path.Base(name)] = i
}

func (t tree) remove(name string) { delete(t[path.Dir(name)], path.Base(name)) }

func (t tree) each(visit func(name string, i *inode)) {
	for dir, files := range t {
		for base, i := range files {
			visit(dir+"/"+base, i)
		}
	}
}

// image is what the disks hold after a crash.
type image struct {
	files map[string]map[string][]byte // by disk and name
	meta  map[string]*vfs.MemFS        // nil: lost
}

// crashed is what a crash may leave behind: what was not safe may be there or not.
type crashed struct {
	kept, safe         map[string]map[string][]byte
	metaKept, metaSafe map[string]*vfs.MemFS
}

var errOff = errors.New("the machine is off")

func newMachine(t testing.TB) *machine {
	m := &machine{t: t, paths: []string{t.TempDir(), t.TempDir()}, disk: map[string]*machineDisk{}, meta: map[string]*vfs.MemFS{}}
	for _, p := range m.paths {
		m.meta[p] = vfs.NewCrashableMem()
		m.disk[p] = &machineDisk{m: m, now: tree{}, safe: tree{}}
	}
	return m
}

func (m *machine) options() store.Options {
	o := options(m.paths...)
	o.FS, o.MetaFS = m.openFS, func(p string) vfs.FS { return m.meta[p] }
	o.Now = clockAt(1_700_000_000)
	return o
}

// isHeld says whether a file is one of those whose fate in a crash is looked at.
func isHeld(name string) bool {
	top, _, below := strings.Cut(name, "/")
	return below && (top == "data" || top == "tmp" || top == "quarantine") && path.Base(name) != "FORMAT"
}

func (m *machine) openFS(p string) (store.FS, error) {
	inner, err := store.DirFS(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disk[p].FS = inner
	return m.disk[p], err
}

// write makes a file, safe.
func (m *machine) write(p, name string, data []byte) {
	i := &inode{data, data}
	m.disk[p].now.put(name, i)
	m.disk[p].safe.put(name, i)
}

// files counts data files and temporary ones.
func (m *machine) files() (n int) {
	for _, d := range m.disk {
		for dir, files := range d.now {
			if dir != "quarantine" {
				n += len(files)
			}
		}
	}
	return n
}

// crash ends all: nothing that the store does from now on has an effect.
func (m *machine) crash() *crashed {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off = true
	c := &crashed{
		kept: map[string]map[string][]byte{}, safe: map[string]map[string][]byte{},
		metaKept: map[string]*vfs.MemFS{}, metaSafe: map[string]*vfs.MemFS{},
	}
	for p, d := range m.disk {
		c.kept[p], c.safe[p] = map[string][]byte{}, map[string][]byte{}
		d.now.each(func(name string, i *inode) { c.kept[p][name] = slices.Clone(i.now) })
		d.safe.each(func(name string, i *inode) { c.safe[p][name] = i.safe })
		c.metaSafe[p] = m.meta[p].CrashClone(vfs.CrashCloneCfg{})
		c.metaKept[p] = m.meta[p].CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	}
	return c
}

func (m *machine) isOff() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.off
}

// restore starts the machine with the disks of an image.
func (m *machine) restore(from image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.off = false
	for _, p := range m.paths {
		d := m.disk[p]
		clear(d.now)
		clear(d.safe)
		for name, data := range from.files[p] {
			m.write(p, name, slices.Clone(data))
		}
		if m.meta[p] = vfs.NewCrashableMem(); from.meta != nil {
			m.meta[p] = from.meta[p].CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		}
	}
}

// outcomes are all that may be found after the crash, and the crash in which the index is lost besides.
func (c *crashed) outcomes() map[string]image {
	return map[string]image{
		"killed":                                {c.kept, c.metaKept},
		"power cut":                             {c.safe, c.metaSafe},
		"power cut, files kept":                 {c.kept, c.metaSafe},
		"power cut, index kept":                 {c.safe, c.metaKept},
		"killed, and the index is lost":         {c.kept, nil},
		"power cut, and the index is lost, too": {c.safe, nil},
	}
}

func (d *machineDisk) do(op func() error) error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.m.off {
		return errOff
	}
	return op()
}

func (d *machineDisk) OpenFile(name string, flag int, perm fs.FileMode) (f store.File, err error) {
	if !isHeld(name) {
		return d.FS.OpenFile(name, flag, perm)
	}
	err = d.do(func() error {
		if flag&os.O_CREATE != 0 {
			d.now.put(name, &inode{})
		}
		if d.now.at(name) == nil {
			return fs.ErrNotExist
		}
		f = &machineFile{d: d, i: d.now.at(name)}
		return nil
	})
	return f, err
}

func (d *machineDisk) Rename(from, to string) error {
	if !isHeld(from) || !isHeld(to) {
		return d.FS.Rename(from, to)
	}
	return d.do(func() error {
		if d.now.at(from) == nil {
			return fs.ErrNotExist
		}
		d.now.put(to, d.now.at(from))
		d.now.remove(from)
		return nil
	})
}

func (d *machineDisk) Remove(name string) error {
	if !isHeld(name) {
		return d.FS.Remove(name)
	}
	return d.do(func() error {
		if d.now.at(name) == nil {
			return fs.ErrNotExist
		}
		d.now.remove(name)
		return nil
	})
}

func (d *machineDisk) ReadDir(dir string) (out []fs.DirEntry, err error) {
	if dir == "." {
		return d.FS.ReadDir(dir)
	}
	if dir == "data" {
		if d.dirs == nil {
			d.dirs, err = d.FS.ReadDir(dir)
		}
		return d.dirs, err
	}
	err = d.do(func() error {
		files := fstest.MapFS{}
		for name, i := range d.now[dir] {
			files[name] = &fstest.MapFile{Data: i.now}
		}
		out, err = files.ReadDir(".")
		return err
	})
	return out, err
}

func (d *machineDisk) SyncDir(dir string) error {
	return d.do(func() error {
		d.safe[dir] = maps.Clone(d.now[dir])
		return nil
	})
}

type machineFile struct {
	d *machineDisk
	i *inode
}

func (f *machineFile) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.d.do(func() error {
		n, err = bytes.NewReader(f.i.now).ReadAt(p, off)
		return err
	})
	return n, err
}

func (f *machineFile) WriteAt(p []byte, off int64) (int, error) {
	return len(p), f.d.do(func() error {
		f.i.resize(max(len(f.i.now), int(off)+len(p)))
		copy(f.i.now[off:], p)
		return nil
	})
}

func (i *inode) resize(size int) {
	now := make([]byte, size)
	copy(now, i.now)
	i.now = now
}

func (f *machineFile) Truncate(size int64) error {
	return f.d.do(func() error {
		f.i.resize(int(size))
		return nil
	})
}

func (f *machineFile) Sync() error {
	return f.d.do(func() error {
		f.i.safe = slices.Clone(f.i.now)
		return nil
	})
}

func (f *machineFile) Size() (int64, error) {
	f.d.m.mu.Lock()
	defer f.d.m.mu.Unlock()
	return int64(len(f.i.now)), nil
}

func (f *machineFile) StartWrite(int64, int64) {}
func (f *machineFile) Close() error            { return nil }
func (f *machineFile) OS() *os.File            { return nil }
