package sampler

import (
	"fmt"
	"math"
	"math/big"
	"slices"
)

// Apportion shares n out in proportion to the weights, in whole numbers: each gets its quota rounded down,
// and what is left goes to the largest remainders, the first of equal ones first. It computes with
// the exact values of the weights, so that every machine comes to the same shares.
func Apportion(weights []float64, n int64) ([]int64, error) {
	sum := new(big.Rat)
	exact := make([]*big.Rat, len(weights))
	for i, w := range weights {
		if !(w >= 0) || math.IsInf(w, 1) {
			return nil, fmt.Errorf("sampler: weight %v of part %d is not a number of 0 or more", w, i)
		}
		exact[i] = new(big.Rat).SetFloat64(w)
		sum.Add(sum, exact[i])
	}
	if sum.Sign() == 0 {
		return nil, fmt.Errorf("sampler: no part has a weight above 0")
	}
	scale := new(big.Rat).Quo(new(big.Rat).SetInt64(n), sum)
	shares, rests, left := make([]int64, len(weights)), make([]*big.Rat, len(weights)), n
	for i, w := range exact {
		quota := w.Mul(w, scale)
		whole := new(big.Int).Quo(quota.Num(), quota.Denom())
		shares[i] = whole.Int64()
		left -= shares[i]
		rests[i] = quota.Sub(quota, new(big.Rat).SetInt(whole))
	}
	byRest := make([]int, len(weights))
	for i := range byRest {
		byRest[i] = i
	}
	slices.SortStableFunc(byRest, func(a, b int) int { return rests[b].Cmp(rests[a]) })
	for _, i := range byRest[:left] {
		shares[i]++
	}
	return shares, nil
}
