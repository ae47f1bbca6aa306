package slices

import "slices"

// Arrangement says which target is to hold which slice of an object. It does not follow from the map alone: a slice
// stays where it is as long as that target is to have one, so that a change of the map moves few.
type Arrangement struct {
	// Holds has for each slice the target of the list that is to hold it and does, "" where there is none.
	Holds []string
	// Missing are the slices that no target of the list holds for the object, and Free the targets of the list that
	// are to have one of them: as many as there are of both belong together.
	Missing []int
	Free    []string
}

// Complete says that each slice is where it is to be.
func (a *Arrangement) Complete() bool { return len(a.Missing) == 0 }

// Arrange gives each target of the list one of so many slices: one that it holds, where that can be. held has what
// each target holds, those out of the list included. The answer is the same for all who ask the same.
func Arrange(list []string, total int, held map[string][]int) Arrangement {
	a := Arrangement{Holds: make([]string, total)}
	takes := make(map[string]int, len(list)) // the slice of each target
	for _, id := range list {
		a.match(id, held, takes, make([]bool, total))
	}
	for slice, id := range a.Holds {
		if id == "" {
			a.Missing = append(a.Missing, slice)
		}
	}
	for _, id := range list {
		if _, has := takes[id]; !has && len(a.Free) < len(a.Missing) {
			a.Free = append(a.Free, id)
		}
	}
	return a
}

// match finds a slice for a target among those that it holds, and has others take another one for it: an augmenting
// path of bipartite matching.
func (a *Arrangement) match(id string, held map[string][]int, takes map[string]int, tried []bool) bool {
	own := slices.Sorted(slices.Values(held[id]))
	for _, slice := range own {
		if slice < 0 || slice >= len(a.Holds) || tried[slice] {
			continue
		}
		tried[slice] = true
		if other := a.Holds[slice]; other == "" || a.match(other, held, takes, tried) {
			a.Holds[slice], takes[id] = id, slice
			return true
		}
	}
	return false
}

// sources lists the slices that somebody holds, in the order in which they are to be read: those of self, then the
// data slices, which need no computation, then the others.
func sources(self string, data, total int, held map[string][]int) []int {
	var order []int
	somewhere := make([]bool, total)
	for _, own := range held {
		for _, slice := range own {
			if slice >= 0 && slice < total {
				somewhere[slice] = true
			}
		}
	}
	add := func(slice int) {
		if slice >= 0 && slice < total && somewhere[slice] && !slices.Contains(order, slice) {
			order = append(order, slice)
		}
	}
	for _, slice := range slices.Sorted(slices.Values(held[self])) {
		add(slice)
	}
	for slice := range data {
		add(slice)
	}
	for slice := range total {
		add(slice)
	}
	return order
}
