package placement

import "slices"

// Member is a target in one set of them.
type Member struct {
	ID     string
	Weight float64
	// Away targets were down when the set was agreed upon: mirrored objects are placed on the others.
	Away bool
	// Leaving targets are drained: nothing new is placed on them.
	Leaving bool
	// Bare targets have lost data, a disk for one, that they don't know of having lost: that they don't have an
	// object says nothing until all data is known again to be where it belongs. It counts in the present set only.
	Bare bool
}

// Epoch is the set of targets that held from one version of the map on.
type Epoch struct {
	Version int64
	Members []Member
}

// rings are an epoch's, prepared.
type rings struct {
	version int64
	steady  *Ring // members that stay, away or not: what has one copy is theirs, and waits for them
	live    *Ring // those of them that are not away
}

func (e Epoch) rings() rings {
	var steady, live []Node
	for _, m := range e.Members {
		if m.Leaving {
			continue
		}
		n := Node{ID: m.ID, Weight: m.Weight}
		steady = append(steady, n)
		if !m.Away {
			live = append(live, n)
		}
	}
	return rings{version: e.Version, steady: NewRing(steady), live: NewRing(live)}
}

func (r rings) list(key string, copies int) []string {
	ring := r.live
	if copies <= 1 {
		ring, copies = r.steady, 1
	}
	ids := make([]string, 0, copies)
	for _, i := range ring.Rank(key, copies) {
		ids = append(ids, ring.ID(i))
	}
	return ids
}

// Layout is where objects are, and where they may still be: the present set of targets, and the earlier ones since
// the last time that all data was known to be where it belongs. It is immutable.
type Layout struct {
	present rings
	former  []rings // newest first
	bare    map[string]bool
	gone    map[string]bool // of former sets, and no members any more: what only they had is lost
}

// NewLayout prepares the sets; former ones come newest first.
func NewLayout(present Epoch, former []Epoch) *Layout {
	l := &Layout{present: present.rings(), bare: map[string]bool{}, gone: map[string]bool{}}
	members := map[string]bool{}
	for _, m := range present.Members {
		members[m.ID] = true
		if m.Bare {
			l.bare[m.ID] = true
		}
	}
	for _, e := range former {
		l.former = append(l.former, e.rings())
		for _, m := range e.Members {
			if !members[m.ID] {
				l.gone[m.ID] = true
			}
		}
	}
	return l
}

// Settled says that all data is known to be where the present set puts it.
func (l *Layout) Settled() bool { return len(l.former) == 0 && len(l.bare) == 0 }

// List is who holds a key: the first is its primary, through which all writes go. It is shorter than copies
// where there are not as many targets.
func (l *Layout) List(key string, copies int) []string { return l.present.list(key, copies) }

// Primary is the first of List, "" where there is none.
func (l *Layout) Primary(key string, copies int) string {
	ring := l.present.live
	if copies <= 1 {
		ring = l.present.steady
	}
	return ring.OwnerID(key)
}

// Plan is what a key's primary has to know of where its copies are.
type Plan struct {
	Copies []string // who is to hold it, the primary first
	// Former are the lists of earlier sets that differ from Copies, newest first. An acknowledged write is on all of
	// the list of its time, or on all of a later one.
	Former [][]string
	// Steady: the primary was the same all along. What it has is the newest that was acknowledged.
	Steady bool

	versions []int64 // of Copies and Former
	bare     map[string]bool
	gone     map[string]bool
}

// Plan makes the plan of a key with so many copies. was are the numbers of copies that its bucket had since all data
// was last known to be where it belongs: what was written then is on as many.
func (l *Layout) Plan(key string, copies int, was ...int) Plan {
	p := Plan{Copies: l.present.list(key, copies), Steady: true, versions: []int64{l.present.version}, bare: l.bare, gone: l.gone}
	if len(p.Copies) > 0 && l.bare[p.Copies[0]] {
		p.Steady = false
	}
	for _, n := range was {
		p.add(l.present.list(key, n), l.present.version)
	}
	for _, r := range l.former {
		p.add(r.list(key, copies), r.version)
		for _, n := range was {
			p.add(r.list(key, n), r.version)
		}
	}
	return p
}

// add takes an earlier list in.
func (p *Plan) add(list []string, version int64) {
	if len(list) > 0 && (len(p.Copies) == 0 || list[0] != p.Copies[0]) {
		p.Steady = false
	}
	if !slices.Equal(list, p.Copies) {
		p.Former, p.versions = append(p.Former, list), append(p.versions, version)
	}
}

// Ask lists those besides self that may hold something newer or that self lacks: all of Copies and Former that are members
// still, each once.
func (p *Plan) Ask(self string) []string {
	var ids []string
	for _, list := range append([][]string{p.Copies}, p.Former...) {
		for _, id := range list {
			if id != self && !p.gone[id] && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// Verdict is what the answers of a key's holders amount to.
type Verdict struct {
	// Certain: no acknowledged version can be newer than Newest. Without it neither "it is this" nor "there is none"
	// may be answered.
	Certain bool
	Newest  uint64   // 0: nobody who answered has any
	Holders []string // that have Newest, in the order of Copies and Former
	// Lacking have answered, are of the list that Newest was written to, and don't have it: the write may have
	// been broken off. They have to get it before it is shown to anybody, or it might be gone with its holders.
	// Nobody lacks it once all of Copies have it: what was dropped elsewhere since must not be brought back.
	Lacking []string
}

// Judge draws the conclusion from the versions that holders answered with, 0 for none; who did not answer is not in
// the map. epochOf tells a version's map version. The primary's own version must be among the answers.
func (p *Plan) Judge(answers map[string]uint64, epochOf func(uint64) int64) Verdict {
	v := Verdict{Certain: p.heard(p.Copies, answers)}
	for _, list := range p.Former {
		v.Certain = v.Certain && p.heard(list, answers)
	}
	for _, version := range answers {
		v.Newest = max(v.Newest, version)
	}
	if v.Newest == 0 {
		return v
	}
	for _, id := range p.Ask("") {
		if answers[id] == v.Newest {
			v.Holders = append(v.Holders, id)
		}
	}
	if len(p.Copies) > 0 && !slices.ContainsFunc(p.Copies, func(id string) bool { return answers[id] != v.Newest }) {
		return v
	}
	for _, id := range p.listAt(epochOf(v.Newest)) {
		if version, answered := answers[id]; answered && version < v.Newest {
			v.Lacking = append(v.Lacking, id)
		}
	}
	return v
}

// heard says that one of a list has answered whose answer counts. Where all that are left of it are bare, what they lost is
// lost, as is what was on those that are no members any more.
func (p *Plan) heard(list []string, answers map[string]uint64) bool {
	left, sound, answered := 0, 0, 0
	for _, id := range list {
		if p.gone[id] {
			continue
		}
		left++
		_, ok := answers[id]
		if ok {
			answered++
		}
		if p.bare[id] {
			continue
		}
		sound++
		if ok {
			return true
		}
	}
	return left == 0 || sound == 0 && answered > 0
}

// listAt is the list that held at a version of the map; the oldest known where that was before it.
func (p *Plan) listAt(version int64) []string {
	lists := append([][]string{p.Copies}, p.Former...)
	for i, from := range p.versions {
		if from <= version {
			return lists[i]
		}
	}
	return lists[len(lists)-1]
}
