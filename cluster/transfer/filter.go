package transfer

import (
	"fmt"
	"path"
	"strings"
)

// Filter chooses among the files of a folder. What is not chosen is neither copied nor deleted.
type Filter struct {
	Include []string // patterns; empty: all files
	Exclude []string // and none of these
}

// Check finds patterns that are none.
func (f Filter) Check() error {
	for _, pattern := range append(append([]string{}, f.Include...), f.Exclude...) {
		if _, err := path.Match(strings.TrimSuffix(pattern, "/"), ""); err != nil || pattern == "" {
			return fmt.Errorf("%q is not a pattern such as *.tar or logs/", pattern)
		}
	}
	return nil
}

// Match says whether a file is chosen.
func (f Filter) Match(name string) bool {
	return (len(f.Include) == 0 || anyMatches(f.Include, name)) && !anyMatches(f.Exclude, name)
}

func anyMatches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if matches(pattern, name) {
			return true
		}
	}
	return false
}

// matches: a pattern without a slash is of the last part of a name, one that ends in a slash of a folder anywhere on its
// path, any other of the whole name.
func matches(pattern, name string) bool {
	folder, isFolder := strings.CutSuffix(pattern, "/")
	if !isFolder {
		if !strings.Contains(pattern, "/") {
			name = path.Base(name)
		}
		ok, _ := path.Match(pattern, name)
		return ok
	}
	for at := path.Dir(name); at != "." && at != "/"; at = path.Dir(at) {
		whole := at
		if !strings.Contains(folder, "/") {
			whole = path.Base(at)
		}
		if ok, _ := path.Match(folder, whole); ok {
			return true
		}
	}
	return false
}
