// Package placement decides which node holds an object: weighted rendezvous hashing, a pure function
// of the object's name and the set of nodes.
//
// Every node and every client computes the same answer with no table to agree on, and when the set
// changes only the objects that must move do: those of a node that left, or the share that a new
// node takes. It knows nothing of nodes but their ids and weights.
package placement

import (
	"math"
	"slices"

	"github.com/zeebo/xxh3"
)

// Node is a candidate for an object.
type Node struct {
	ID     string
	Weight float64 // its share of the objects against the others; 0 or less: 1
}

// Ring is a set of candidates, prepared for many questions. It is immutable.
type Ring struct {
	nodes   []Node
	hashes  []uint64
	weights []float64
	uniform bool // all weights equal: hashes can be compared as they are
}

// NewRing prepares a set of nodes. The order of the nodes does not matter.
func NewRing(nodes []Node) *Ring {
	r := &Ring{nodes: nodes, hashes: make([]uint64, len(nodes)), weights: make([]float64, len(nodes)), uniform: true}
	for i, n := range nodes {
		r.hashes[i] = xxh3.HashString(n.ID)
		r.weights[i] = n.Weight
		if n.Weight <= 0 {
			r.weights[i] = 1
		}
		r.uniform = r.uniform && r.weights[i] == r.weights[0]
	}
	return r
}

// Key is the name under which an object is placed.
func Key(bucket, object string) string { return bucket + "/" + object }

// Owner is the index of the node that holds the key, -1 in an empty ring.
func (r *Ring) Owner(key string) int {
	h := xxh3.HashString(key)
	best := -1
	var bestScore float64
	var bestHash uint64
	for i := range r.hashes {
		score, nodeHash := r.score(h, i)
		if best < 0 || r.above(score, nodeHash, i, bestScore, bestHash, best) {
			best, bestScore, bestHash = i, score, nodeHash
		}
	}
	return best
}

// Rank lists the nodes by how much they are the key's, its owner first: where the owner is away, or one
// copy is not enough, the next are everyone's choice. At most n are listed.
func (r *Ring) Rank(key string, n int) []int {
	h := xxh3.HashString(key)
	type candidate struct {
		index int
		score float64
		hash  uint64
	}
	before := func(a, b candidate) int {
		if r.above(a.score, a.hash, a.index, b.score, b.hash, b.index) {
			return -1
		}
		return 1 // no two are equal
	}
	best := make([]candidate, 0, min(n, len(r.hashes))+1)
	for i := range r.hashes {
		score, hash := r.score(h, i)
		c := candidate{i, score, hash}
		if at, _ := slices.BinarySearchFunc(best, c, before); at < n {
			best = slices.Insert(best, at, c)
			best = best[:min(len(best), n)]
		}
	}
	list := make([]int, len(best))
	for i, c := range best {
		list[i] = c.index
	}
	return list
}

// score says how much a node is a key's; where all weights are equal, the hash alone does.
func (r *Ring) score(key uint64, node int) (score float64, hash uint64) {
	hash = mix(key ^ r.hashes[node])
	if !r.uniform {
		score = r.weights[node] / negLog(hash)
	}
	return score, hash
}

// OwnerID is the id of the node that holds the key, "" in an empty ring.
func (r *Ring) OwnerID(key string) string {
	if i := r.Owner(key); i >= 0 {
		return r.nodes[i].ID
	}
	return ""
}

// ID is the id of node i.
func (r *Ring) ID(i int) string { return r.nodes[i].ID }

// above orders by score, then hash, then id, so that no two nodes are equal.
func (r *Ring) above(score float64, hash uint64, i int, thanScore float64, thanHash uint64, than int) bool {
	if score != thanScore {
		return score > thanScore
	}
	if hash != thanHash {
		return hash > thanHash
	}
	return r.nodes[i].ID < r.nodes[than].ID
}

// mix is the finalizer of splitmix64: without it, xor of two hashes would order the nodes alike for
// keys whose hashes share high bits.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// negLog is -ln(u) for the hash as a number u in (0, 1). It is written out, with every product rounded
// on its own (the conversions forbid fusing), so that all architectures get the same bits: math.Log
// is assembly on some. A node that disagreed in the last bit would look for an object elsewhere.
func negLog(hash uint64) float64 {
	u := (float64(hash>>11) + 0.5) / (1 << 53)
	fraction, exponent := math.Frexp(u) // u = fraction * 2^exponent, fraction in [1/2, 1)
	if fraction < math.Sqrt2/2 {
		fraction *= 2
		exponent--
	}
	// ln(fraction) = 2 atanh(s), s = (f-1)/(f+1), |s| < 0.172: 10 terms reach 1e-17.
	s := (fraction - 1) / (fraction + 1)
	square := float64(s * s)
	sum := 0.0
	for k := 19; k >= 1; k -= 2 {
		sum = float64(sum*square) + 1/float64(k)
	}
	ln := float64(2*s*sum) + float64(float64(exponent)*math.Ln2)
	return -ln
}
