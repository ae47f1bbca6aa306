package gateway

import (
	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

// What is chosen for sources with backends. All shards of a window are read at once: they have to be here before its first
// batch is whole, so they shall be fetched within seconds, and leave room in the cache for those of the next window.
const (
	coldSlices     = 1 // a shard that is cut would be needed, and fetched, in several windows
	leastWindow    = 4
	greatestWindow = sampler.DefaultWindow
	windowBytes    = 2 << 30
	windowOfCache  = 2 // a window takes at most this part of a quota,
	windowOfShards = 8 // and of the shards, so that the next one is fetched while it is read
)

// shuffleOf is a shuffle as it was asked for; "" is global as far as its checks go.
func shuffleOf(name string, slices, window int) (sampler.Shuffle, error) {
	shuffle := sampler.Shuffle{Slices: slices, Window: window}
	if name != "" {
		var err error
		if shuffle.Mode, err = sampler.ParseMode(name); err != nil {
			return shuffle, err
		}
	}
	return shuffle, shuffle.Validate()
}

// coldBuckets are buckets with backends, by name.
type coldBuckets map[string]*api.Bucket

// shuffle is the order of a source for which none was asked: global, or where it has a backend one that needs each shard for
// a stretch of an epoch only.
func (c coldBuckets) shuffle(bytes, shards int64) (name string, slices, window int) {
	if len(c) == 0 {
		return sampler.Global.String(), 0, 0
	}
	room := int64(windowBytes)
	for _, b := range c {
		if quota := b.Backend.Quota; quota > 0 {
			room = min(room, quota/windowOfCache)
		}
	}
	fit := min(room/max(bytes/max(shards, 1), 1), shards/windowOfShards)
	return sampler.Window.String(), coldSlices, int(min(max(fit, leastWindow), greatestWindow))
}

// firstUse is in which order a stream of one source is going to need its shards, as far as that is known before they are.
type firstUse struct {
	shuffle sampler.Shuffle
	epoch   uint64
}

// firstUseOf is that of a stream; nil where it needs all of them from the beginning on, or is not read now.
func firstUseOf(req *api.StreamRequest) *firstUse {
	shuffle, err := shuffleOf(req.Shuffle, req.Slices, req.Window)
	if req.Shuffle == "" {
		shuffle = sampler.Shuffle{Mode: sampler.Window, Slices: coldSlices}
	}
	if err != nil || !req.Ahead || shuffle.Mode == sampler.Global {
		return nil
	}
	shuffle.Seed = req.Seed
	return &firstUse{shuffle, req.Epoch}
}
