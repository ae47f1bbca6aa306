package heal

import (
	"slices"
	"time"
)

// checkSlice is check for a slice of an erasure-coded object. The object's own description is with the keepers; what
// else is proven depends on whether they have it in a newer version, in that of the slice, or in an older one.
func (l *Deletion) checkSlice(self string, now time.Time, fault func(string, ...any) error) error {
	i := &l.Info
	newer, same := true, true
	for _, id := range l.Keepers {
		version, answered := l.Proof[id]
		if !answered {
			return fault("%s has not confirmed which version it has", id)
		}
		newer, same = newer && version > i.Version, same && version == i.Version
		if l.Stray > 0 && version >= i.Version {
			return fault("%s knows version %d, so slices of %d may be of use", id, version, i.Version)
		}
	}
	switch {
	case l.Stray > 0 && now.Sub(i.Created) < l.Stray:
		return fault("it was made %v ago, by a write that may go on", now.Sub(i.Created).Round(time.Second))
	case newer, l.Stray > 0:
		return nil
	case !same:
		return fault("its object is not in one version everywhere")
	case len(l.Whole) > 0:
		for _, id := range l.Keepers {
			if !slices.Contains(l.Whole, id) {
				return fault("%s has no whole copy", id)
			}
		}
		return nil
	}
	return l.checkOthers(self, fault)
}

// checkOthers makes sure that all slices are there without this one.
func (l *Deletion) checkOthers(self string, fault func(string, ...any) error) error {
	i := &l.Info
	if i.Data < 1 || len(l.Slices) != i.Data+i.Parity {
		return fault("%d of %d slices are proven to be there", len(l.Slices), i.Data+i.Parity)
	}
	for n, id := range l.Slices {
		switch {
		case id == "":
			return fault("nobody has slice %d", n)
		case slices.Contains(l.Slices[:n], id):
			return fault("%s has two of the slices", id)
		case id == self && n == i.Slice:
			return fault("%s is to keep it itself", self)
		}
	}
	return nil
}
