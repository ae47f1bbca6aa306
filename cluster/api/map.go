package api

// Map is the versioned cluster map: all that placement needs. Membership is durable: a target that
// is down stays in the map, as its objects stay on its disks.
type Map struct {
	Version int64  `json:"version"`
	Cluster string `json:"cluster"` // cluster id
	Nodes   []Node `json:"nodes"`   // sorted by id
	Since   int64  `json:"since"`   // the version from which on the present set of targets holds
	// Former are earlier sets of targets, newest first: those since all data was last known to be where it belongs.
	// Objects may still be where they put them.
	Former []Epoch `json:"former,omitempty"`
}

// Epoch is the set of targets that held from one version of the map on.
type Epoch struct {
	Version int64    `json:"version"`
	Targets []Member `json:"targets"`
}

// Member is a target in an Epoch.
type Member struct {
	ID       string  `json:"id"`
	Weight   float64 `json:"weight,omitempty"`
	Away     bool    `json:"away,omitempty"`
	Draining bool    `json:"draining,omitempty"`
}

// Targets are the members of the map that hold objects, live or not.
func (m *Map) Targets() []Node {
	var targets []Node
	for _, n := range m.Nodes {
		if n.Role == RoleTarget {
			targets = append(targets, n)
		}
	}
	return targets
}

// Node finds a member by its id.
func (m *Map) Node(id string) (Node, bool) {
	for _, n := range m.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return Node{}, false
}
