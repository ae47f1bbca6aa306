package heal

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// Unsettled says why it is not known yet that all data is where the map puts it, and nowhere else; nothing where it is.
// Then the earlier sets of targets can be forgotten. reports are the targets', by id.
func Unsettled(s State, reports map[string]Report) []string {
	var reasons []string
	goal := s.Goal()
	for _, n := range s.Placer.Map.Targets() {
		r, reported := reports[n.ID]
		switch {
		case n.Away:
		case n.State != api.StateOK:
			reasons = append(reasons, fmt.Sprintf("target %s is down", n.ID))
		case !reported || r.Goal != goal:
			reasons = append(reasons, fmt.Sprintf("target %s has not begun yet", n.ID))
		case !r.Placed || !r.Clean:
			detail := "is at work"
			if len(r.Reasons) > 0 {
				detail = strings.Join(r.Reasons, "; ")
			}
			reasons = append(reasons, fmt.Sprintf("target %s: %s", n.ID, detail))
		}
	}
	return append(reasons, unseen(s)...)
}

// unseen names targets that are away and may have what nobody else has: in an earlier set, some object's copies could all
// have been on them, and on others that have lost theirs. Forgetting that set would be to answer that such an object does
// not exist.
func unseen(s State) []string {
	m := &s.Placer.Map
	var reasons []string
	for _, copies := range s.copies() {
		for _, e := range m.Former {
			var away []string
			held, gone := 0, 0
			for _, t := range e.Targets {
				if t.Draining || t.Away && copies > 1 {
					continue
				}
				held++
				n, member := m.Node(t.ID)
				if !member || n.Bare || n.Away {
					gone++
				}
				if member && n.Away {
					away = append(away, t.ID)
				}
			}
			if len(away) == 0 || gone < min(copies, held) || copies == 1 && steady(e, m) {
				continue
			}
			reason := fmt.Sprintf("%s: away, and may have objects that nobody else has; bring it back, or give it up with `shardstream node rm ID --force`", strings.Join(away, ", "))
			if !slices.Contains(reasons, reason) {
				reasons = append(reasons, reason)
			}
		}
	}
	return reasons
}

// copies are the numbers of copies that there are objects with.
func (s *State) copies() []int {
	var list []int
	for i := range s.Buckets {
		for _, n := range append([]int{s.Buckets[i].Copies()}, s.Buckets[i].Was...) {
			if !slices.Contains(list, n) {
				list = append(list, n)
			}
		}
	}
	return list
}

// steady says that an earlier set places objects with one copy as the present one does: whoever is away has those that
// are its own, and nothing else.
func steady(e api.Epoch, m *api.Map) bool {
	type share struct {
		id     string
		weight float64
	}
	var before, now []share
	for _, t := range e.Targets {
		if !t.Draining {
			before = append(before, share{t.ID, t.Weight})
		}
	}
	for _, n := range m.Targets() {
		if !n.Draining {
			now = append(now, share{n.ID, n.Weight})
		}
	}
	return slices.Equal(before, now)
}
