// Package sampler is the plan: which sample stands at which position of an epoch, and which
// positions a rank and a worker take. Everything in it is a pure function of its arguments, so any
// node and any client works the same plan out for itself and nobody keeps epoch state.
//
//   - A Snapshot fixes the data: shards in order, each with a version and a sample count. Samples are
//     numbered through all shards, from 0. A Builder makes it as a listing goes; it lies in Pages that
//     are named by their content, under a Root whose hash is its id.
//   - An Order, made from a snapshot, a Shuffle and an epoch, is a permutation of those numbers with
//     random access in both directions. It knows nothing of ranks or batches.
//   - A Mixture is the plan of an epoch over several parts of a snapshot, each with a number of draws an
//     epoch and a shuffle of its own. Order and Mixture are both a Plan: what stands at a position.
//   - A View cuts the positions of an epoch into steps and batches for one rank and worker. It knows
//     nothing of shards or shuffling.
//
// The package does no I/O, starts nothing that outlives a call, imports nothing else of this project, and all its values
// are immutable: use them from any number of goroutines. It does not say where a shard lies (that
// is placement) nor what a sample holds.
//
// The order is a promise: a checkpoint is a position in it. Version names the algorithm; whatever
// changes any order must raise it.
package sampler

// Version is the version of the order: of all that lies between (snapshot, shuffle or parts and blend,
// epoch, position) and a sample number. A checkpoint stores it, and a position is good under the same version only.
const Version = 1
