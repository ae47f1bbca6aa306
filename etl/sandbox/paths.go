package sandbox

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// system are the directories that every program may read; links to others stay links.
var system = []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32"}

// settings are the files below /etc that libraries look for; none holds a secret.
var settings = []string{
	"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/timezone",
	"/etc/os-release", "/etc/mime.types", "/etc/fonts", "/etc/ssl/openssl.cnf", "/etc/magic", "/etc/ImageMagick-6",
}

// networkSettings are those of programs that may use the network.
var networkSettings = []string{
	"/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/gai.conf", "/etc/nsswitch.conf", "/etc/services",
	"/etc/protocols", "/etc/ssl", "/etc/pki", "/etc/ca-certificates",
}

// processors is where libraries learn how many there are, and of what kind.
const processors = "/sys/devices/system/cpu"

// uses of a path, in the order in which they apply to the same one.
type use int

const (
	useRead use = iota
	useWrite
	useHide
)

// entry is what becomes of one path, and all below it that has no entry of its own.
type entry struct {
	path string
	use  use
}

// entries are the paths of a spec, those above before those below. A path that leads through links stands there twice,
// as it was given and as it is: programs use both.
func (s *Spec) entries() []entry {
	var found []entry
	add := func(u use, paths []string) {
		for _, path := range paths {
			if !filepath.IsAbs(path) {
				continue
			}
			path = filepath.Clean(path)
			resolved, err := filepath.EvalSymlinks(path)
			if err != nil {
				continue // is not there
			}
			for _, p := range []string{path, resolved} {
				if p != "/" && !(u == useRead && below(p, system)) {
					found = append(found, entry{p, u})
				}
			}
		}
	}
	add(useRead, settings)
	add(useRead, []string{processors})
	if s.Network {
		add(useRead, networkSettings)
	}
	add(useRead, s.Read)
	add(useRead, []string{s.Path})
	add(useWrite, s.Write)
	add(useHide, s.Hide)
	slices.SortStableFunc(found, func(a, b entry) int {
		return cmp.Or(cmp.Compare(strings.Count(a.path, "/"), strings.Count(b.path, "/")), cmp.Compare(a.path, b.path), cmp.Compare(a.use, b.use))
	})
	return needed(slices.Compact(found))
}

// needed leaves out entries that say no more than one above them does, and the names through links of what is shown
// anyway: a link in a directory that is shown is there as a link.
func needed(all []entry) []entry {
	var kept []entry
	for _, e := range all {
		above := -1
		for i, k := range kept {
			if strings.HasPrefix(e.path, k.path+"/") || e.path == k.path {
				above = i // the nearest so far, as they are sorted
			}
		}
		if above >= 0 && kept[above].use == e.use {
			continue
		}
		if resolved, err := filepath.EvalSymlinks(e.path); above >= 0 && (err != nil || resolved != e.path) {
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// below says whether a path is one of the directories or lies below one.
func below(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
}

// bound are the paths of entries that are not hidden.
func bound(entries []entry) []string {
	var paths []string
	for _, e := range entries {
		if e.use != useHide {
			paths = append(paths, e.path)
		}
	}
	return paths
}

// grants turns entries into lists of what may be read and written, for a fence that knows no exceptions: a directory with
// something hidden below it is replaced by what else is in it.
func grants(entries []entry) (read, write []string) {
	var hidden []string
	for _, e := range entries {
		if e.use == useHide {
			hidden = append(hidden, e.path)
		}
	}
	for _, e := range entries {
		switch e.use {
		case useRead:
			read = append(read, around(e.path, hidden)...)
		case useWrite:
			write = append(write, around(e.path, hidden)...)
		case useHide:
		}
	}
	return read, write
}

// around is a path without what is hidden in it.
func around(path string, hidden []string) []string {
	if slices.Contains(hidden, path) {
		return nil
	}
	if !slices.ContainsFunc(hidden, func(h string) bool { return strings.HasPrefix(h, path+"/") }) {
		return []string{path}
	}
	list, err := os.ReadDir(path)
	if err != nil {
		return nil
	}
	var rest []string
	for _, e := range list {
		rest = append(rest, around(filepath.Join(path, e.Name()), hidden)...)
	}
	return rest
}
