package sampler

// run is a run of a snapshot's shards, all of them or one source's, with shards and samples numbered from 0.
type run struct {
	snap    *Snapshot
	from    int // the first shard
	shards  int
	first   int64 // sample of the snapshot
	samples int64
}

// run is the shards from one to another.
func (s *Snapshot) run(from, to int) run {
	first := s.First(from)
	return run{snap: s, from: from, shards: to - from, first: first, samples: s.First(to) - first}
}

// count is the number of a shard's samples.
func (r *run) count(shard int) int64 { return r.snap.count(r.from + shard) }

// start is the number of a shard's first sample.
func (r *run) start(shard int) int64 { return r.snap.First(r.from+shard) - r.first }

// locate finds the shard that holds a sample, and the sample's index in it.
func (r *run) locate(sample int64) (shard int, index int64) {
	shard, index = r.snap.Locate(r.first + sample)
	return shard - r.from, index
}
