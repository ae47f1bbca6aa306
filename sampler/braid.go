package sampler

import (
	"cmp"
	"math/bits"
	"slices"
)

// A braid interleaves the draws of several parts evenly, in whole numbers, by a binary tree over the parts: a
// fork shares its turns between two sides, and a lookup walks from the root to a part.
//
// An even fork with n draws below it, a of them on its left, sends floor((j*a+phase)/n) of its first j
// turns left: in every stretch of its turns each side has its share, give or take less than 1. No
// sequence is more even, and each such sequence is nearly periodic: of two equal parts, one has all even
// turns. A loose fork cuts its turns into a cells and sends one turn of each left, drawn by a hash:
// give or take less than 2, and in step with nothing.
//
// The tree is Huffman's: a part with many draws is near the root, where it is dealt most evenly. With p the
// share of a fork's turns that a side takes, a side deviates by less than 1 (or 2) + p times what the
// fork does; as no side is larger than the other side of the fork above, p of one level bounds p of
// the next, and the deviation of a part stays below 4 (or 8) however many there are.
type braid struct {
	forks []fork // those below a fork come before it; the root is last
	only  int    // the part with all draws, where there is no fork
	loose bool
}

// fork deals its turns to two sides, of which the left is not the larger.
type fork struct {
	left, right int32  // a fork's number, or the complement of a part's
	a, n        uint64 // draws on the left side, and on both
	phase       uint64 // below n; drawn, so that each side has its share of any one turn over the epochs
	key         uint64 // of a loose fork's cells
	begun       uint64 // turns of a loose fork that go left before phase
}

// newBraid plaits parts of these many draws, of which one at least has some.
func newBraid(draws []int64, loose bool, key uint64) braid {
	type strand struct {
		id int32
		n  uint64
	}
	leaves := make([]strand, 0, len(draws))
	for part, n := range draws {
		if n > 0 {
			leaves = append(leaves, strand{^int32(part), uint64(n)})
		}
	}
	slices.SortStableFunc(leaves, func(a, b strand) int { return cmp.Compare(a.n, b.n) })
	b := braid{forks: make([]fork, 0, len(leaves)-1), only: int(^leaves[0].id), loose: loose}
	// Huffman's algorithm with two queues: forks are made in the order of their draws.
	made := make([]strand, 0, len(leaves)-1)
	least := func() (s strand) {
		if len(made) == 0 || len(leaves) > 0 && leaves[0].n <= made[0].n {
			s, leaves = leaves[0], leaves[1:]
			return s
		}
		s, made = made[0], made[1:]
		return s
	}
	for len(leaves)+len(made) > 1 {
		left, right := least(), least()
		f := fork{left: left.id, right: right.id, a: left.n, n: left.n + right.n, key: hash(key, uint64(len(b.forks)))}
		f.phase = scale(f.key, f.n)
		f.begun, _ = f.cut(f.phase)
		made = append(made, strand{int32(len(b.forks)), f.n})
		b.forks = append(b.forks, f)
	}
	return b
}

// at is the part whose turn j is, and which of the part's draws of the epoch it gives.
func (b *braid) at(j int64) (part int, draw int64) {
	if len(b.forks) == 0 {
		return b.only, j
	}
	turn, id := uint64(j), int32(len(b.forks)-1)
	for id >= 0 {
		f := &b.forks[id]
		var lefts uint64
		var left bool
		if b.loose {
			lefts, left = f.loose(turn)
		} else {
			lefts, left = f.even(turn)
		}
		if left {
			turn, id = lefts, f.left
		} else {
			turn, id = turn-lefts, f.right
		}
	}
	return int(^id), int64(turn)
}

// even says how many turns before this one go left, and whether it does.
func (f *fork) even(turn uint64) (lefts uint64, left bool) {
	lefts, rest := mulDiv(turn, f.a, f.phase, f.n)
	return lefts, rest+f.a >= f.n
}

// loose is even for a loose fork, whose turns begin at phase and go round.
func (f *fork) loose(turn uint64) (lefts uint64, left bool) {
	turn += f.phase
	if turn < f.n {
		lefts, left = f.cut(turn)
		return lefts - f.begun, left
	}
	lefts, left = f.cut(turn - f.n)
	return lefts + f.a - f.begun, left
}

// cut cuts the turns into cells, of which k begins at ceil(k*n/a); none is empty, as a is not above n. It says
// how many turns before one go left, one of each cell, and whether this does.
func (f *fork) cut(turn uint64) (lefts uint64, left bool) {
	cell, _ := mulDiv(turn, f.a, 0, f.n)
	begin, rest := mulDiv(cell, f.n, f.a-1, f.a)
	size := (rest + f.n) / f.a
	drawn := begin + scale(hash(f.key, cell), size)
	if turn > drawn {
		cell++
	}
	return cell, turn == drawn
}

// mulDiv is (x*y+z)/n and its remainder, in 128 bits; the quotient must fit into 64.
func mulDiv(x, y, z, n uint64) (quotient, rest uint64) {
	hi, lo := bits.Mul64(x, y)
	lo, carry := bits.Add64(lo, z, 0)
	return bits.Div64(hi+carry, lo, n)
}
