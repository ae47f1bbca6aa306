package backend

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"strings"

	"github.com/shardstream/shardstream/core/store"
)

// Prefix is what the names of an address's objects have in front of them where they are kept: its path, ended by a
// slash, or nothing.
func (a Address) Prefix() string {
	if a.Path == "" || strings.HasSuffix(a.Path, "/") {
		return a.Path
	}
	return a.Path + "/"
}

// Lists says whether a backend's listing has objects of that name: those that can be an object's here.
func Lists(name string) bool { return store.CheckName(name) == nil }

// Listing makes names of the cluster from a backend's: keys come in as the backend has them, in order, and go out
// without the address's prefix. What can't be the name of an object here (Lists) is left out, and counted in
// one warning at the end; the empty "a/" that consoles make for folders is left out without one. A backend that
// does not keep the byte order is not supported: what is built on listings would lose names silently.
func Listing(ctx context.Context, a Address, keys iter.Seq2[Entry, error]) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		prefix, last := a.Prefix(), ""
		skipped, first := 0, ""
		defer func() {
			if skipped > 0 {
				slog.WarnContext(ctx, "the backend has objects whose names can't be used here; they are left out",
					"backend", a.String(), "objects", skipped, "first", first)
			}
		}()
		for e, err := range keys {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if e.Name < last {
				yield(Entry{}, &Error{
					Backend: a.String(), Op: "list", Kind: Unsupported,
					Err: fmt.Errorf("it does not list in the byte order of names: %q came after %q", e.Name, last),
				})
				return
			}
			if e.Name == last && last != "" {
				continue // on two pages
			}
			last = e.Name
			name, below := strings.CutPrefix(e.Name, prefix)
			if !below || e.Size <= 0 && (name == "" || strings.HasSuffix(name, "/")) {
				continue
			}
			if !Lists(name) {
				if skipped++; skipped == 1 {
					first = name
				}
				continue
			}
			e.Name = name
			if !yield(e, nil) {
				return
			}
		}
	}
}
