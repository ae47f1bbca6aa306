package heal

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/placement"
	"github.com/shardstream/shardstream/core/store"
)

// State is the cluster as a node sees it: where things belong. It is immutable.
type State struct {
	Placer  *api.Placer
	Buckets []Bucket // sorted by name
	// Round is raised by hand to have everything looked at again.
	Round int64
}

// Bucket is a bucket and how many copies its objects are to have.
type Bucket struct {
	api.Bucket
	Identity int64 // tells it from an earlier one of its name
}

// StateOf takes what heal needs out of a view.
func StateOf(v *membership.View, round int64) State {
	s := State{Placer: v.Placer, Round: round}
	for _, b := range v.Buckets() {
		entry, _ := v.Bucket(b.Name)
		s.Buckets = append(s.Buckets, Bucket{Bucket: b, Identity: entry.Identity})
	}
	return s
}

// was are the bucket's earlier numbers of copies, while objects may have as many only.
func (b *Bucket) was() string {
	if len(b.Was) == 0 {
		return ""
	}
	return fmt.Sprint(b.Was)
}

// policy is all that a pass over the bucket depends on, besides the set of targets.
func (b *Bucket) policy() string {
	data, parity := 0, 0
	if b.EC != nil {
		data, parity = b.EC.Data, b.EC.Parity
	}
	return fmt.Sprintf("%d/%d/%d+%d", b.Identity, b.Copies(), data, parity)
}

// plan is where an object of the bucket is to be, and may be.
func (s *State) plan(b *Bucket, name string) placement.Plan {
	return s.Placer.Plan(b.Name, name, b.Copies(), b.Was...)
}

// untouched says that the present set places an object, and its slices, where all sets before did.
func (s *State) untouched(b *Bucket, info *store.Info, plan *placement.Plan) bool {
	if len(plan.Former) > 0 || s.hasBare(plan.Copies) {
		return false
	}
	if info.Data == 0 {
		return true
	}
	wide := s.Placer.Plan(b.Name, info.Name, info.Data+info.Parity)
	return len(wide.Former) == 0 && !s.hasBare(wide.Copies)
}

// toSlice says that an object is to be in slices by its bucket's settings, and has whole copies.
func (s *State) toSlice(info *store.Info) bool {
	at, found := slices.BinarySearchFunc(s.Buckets, info.Bucket, func(b Bucket, name string) int { return strings.Compare(b.Name, name) })
	_, elsewhere := info.Origin()
	return found && s.Buckets[at].EC != nil && info.Data == 0 && info.Size > api.SmallObject && !elsewhere
}

// set is the set of targets that passes work to: what was done for one does not count for another.
type set struct {
	since int64
	bare  string
	round int64
}

func (s *State) set() set {
	t := set{since: s.Placer.Map.Since, round: s.Round}
	for _, n := range s.Placer.Map.Nodes {
		if n.Role == api.RoleTarget && n.Bare {
			t.bare += n.ID + "\x00"
		}
	}
	return t
}

// Goal names what passes work to: all nodes that see the cluster alike have the same. It changes with the set of targets
// and with buckets and their redundancy, and not where a target merely came back as it was.
func (s *State) Goal() string {
	h := xxh3.New()
	t := s.set()
	for _, n := range []int64{t.since, t.round} {
		_, _ = h.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
	}
	_, _ = h.WriteString(t.bare)
	for i := range s.Buckets {
		_, _ = h.WriteString("\x01" + s.Buckets[i].Name + "\x00" + s.Buckets[i].policy() + s.Buckets[i].was())
	}
	return hex.EncodeToString(binary.BigEndian.AppendUint64(nil, h.Sum64()))
}

// hasBare says whether one of the targets came back with less than it had.
func (s *State) hasBare(ids []string) bool {
	return slices.ContainsFunc(ids, func(id string) bool {
		n, _ := s.Placer.Node(id)
		return n.Bare
	})
}

// onlyAway says whether the present set differs from the one before by targets that are away now, and nothing else:
// then it is worth waiting whether they come back.
func (s *State) onlyAway() bool {
	m := &s.Placer.Map
	if len(m.Former) == 0 {
		return false
	}
	before := map[string]api.Member{}
	for _, t := range m.Former[0].Targets {
		before[t.ID] = t
	}
	gone := false
	for _, n := range m.Targets() {
		b, known := before[n.ID]
		if !known || b.Draining != n.Draining || n.Bare || b.Away && !n.Away {
			return false
		}
		gone = gone || n.Away && !b.Away
		delete(before, n.ID)
	}
	return gone && len(before) == 0
}
