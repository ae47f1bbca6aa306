package placement

// Covered says whether the answers of some targets show all keys with so many copies: of each list, of today or of
// earlier sets, one has answered whose answer counts. was is as in Plan.
func (l *Layout) Covered(copies int, was []int, answered func(id string) bool) bool {
	for _, n := range append([]int{copies}, was...) {
		for _, r := range append([]rings{l.present}, l.former...) {
			if !l.covers(r, n, answered) {
				return false
			}
		}
	}
	return true
}

func (l *Layout) covers(r rings, copies int, answered func(id string) bool) bool {
	ring := r.live
	if copies <= 1 {
		ring, copies = r.steady, 1
	}
	silent, without := 0, 0 // without: those whose answer is not there, or does not count
	for _, n := range ring.nodes {
		heard := !l.gone[n.ID] && answered(n.ID)
		if !heard && !l.gone[n.ID] {
			silent++
		}
		if !heard || l.bare[n.ID] {
			without++
		}
	}
	// Any targets of the ring, as many as there are copies, may be the list of a key.
	return silent == 0 || without < min(copies, len(ring.nodes))
}
