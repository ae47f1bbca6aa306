package sampler

import (
	"math"
	"math/bits"
)

// A bijection is a seeded permutation of [0, n) in constant memory: a Feistel network over a
// near-square grid of rows x cols >= n cells, with modular addition in place of exclusive or, so that
// the grid exceeds n by less than one row. The few cells past n are left by cycle walking.
//
// It is built for mixing, not for secrecy.
type bijection struct {
	shape
	keys schedule
}

// schedule holds the keys of the rounds.
type schedule [manyRounds]uint64

// shape is the part of a bijection that follows from its size alone.
type shape struct {
	n, rows, cols uint64
	rounds        int
}

// A round on a grid with small sides has few outputs to choose from, so small domains take more of
// them to come close to uniform over pairs; large ones are there after 6 and take 8.
const (
	manyRounds  = 16
	fewRounds   = 8
	smallDomain = 1 << 12
)

func newBijection(n int64, key uint64) bijection {
	return bijection{shape: newShape(n), keys: newSchedule(key)}
}

func newShape(n int64) shape {
	s := shape{n: uint64(n), rows: 1, cols: 1, rounds: fewRounds}
	if n < smallDomain {
		s.rounds = manyRounds
	}
	if n > 1 {
		s.cols = sqrtCeil(s.n)
		s.rows = (s.n + s.cols - 1) / s.cols
	}
	return s
}

// sqrtCeil is the smallest c with c*c >= n, exact whatever the rounding of the float.
func sqrtCeil(n uint64) uint64 {
	c := uint64(math.Sqrt(float64(n)))
	for c*c < n {
		c++
	}
	for c > 0 && (c-1)*(c-1) >= n {
		c--
	}
	return c
}

func newSchedule(key uint64) schedule {
	var k schedule
	for i := range k {
		key += golden
		k[i] = mix(key)
	}
	return k
}

func (b *bijection) forward(x int64) int64 { return b.keys.forward(b.shape, 0, x) }
func (b *bijection) inverse(y int64) int64 { return b.keys.inverse(b.shape, 0, y) }

// forward maps x of [0, s.n). A tweak selects one of many independent permutations under the
// same keys.
func (k *schedule) forward(s shape, tweak uint64, x int64) int64 {
	v := uint64(x)
	for {
		row, col := v/s.cols, v%s.cols
		for i := 0; i < s.rounds; i += 2 {
			row = addMod(row, scale(mix(col^k[i%manyRounds]^tweak), s.rows), s.rows)
			col = addMod(col, scale(mix(row^k[(i+1)%manyRounds]^tweak), s.cols), s.cols)
		}
		if v = row*s.cols + col; v < s.n {
			return int64(v)
		}
	}
}

// inverse undoes forward.
func (k *schedule) inverse(s shape, tweak uint64, y int64) int64 {
	v := uint64(y)
	for {
		row, col := v/s.cols, v%s.cols
		for i := s.rounds - 2; i >= 0; i -= 2 {
			col = subMod(col, scale(mix(row^k[(i+1)%manyRounds]^tweak), s.cols), s.cols)
			row = subMod(row, scale(mix(col^k[i%manyRounds]^tweak), s.rows), s.rows)
		}
		if v = row*s.cols + col; v < s.n {
			return int64(v)
		}
	}
}

// scale maps a hash to [0, n) without a division; the bias is below n/2^64.
func scale(hash, n uint64) uint64 {
	hi, _ := bits.Mul64(hash, n)
	return hi
}

func addMod(a, b, n uint64) uint64 {
	if a += b; a >= n {
		a -= n
	}
	return a
}

func subMod(a, b, n uint64) uint64 {
	if a < b {
		a += n
	}
	return a - b
}

// golden is 2^64 divided by the golden ratio, the increment of SplitMix64.
const golden = 0x9e3779b97f4a7c15

// mix is the finalizer of SplitMix64 (Stafford's variant 13): a bijection of uint64 in which every
// input bit moves every output bit.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// hash mixes words into one key. It is a bijection of each word while the others stand, so two
// epochs of one seed never share a key.
func hash(words ...uint64) uint64 {
	h := uint64(golden)
	for _, w := range words {
		h = mix((h^w)*0xd6e8feb86659fd93 + golden)
	}
	return h
}
