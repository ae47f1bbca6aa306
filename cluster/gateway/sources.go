package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/sampler"
)

const (
	maxSources      = 100_000
	maxStream       = 32 << 20 // bytes of a stream's description, which may be a long list
	statAtOnce      = 4096     // names that targets are asked for at once
	statRequests    = 4        // at once
	shownMissing    = 3        // names of an error
	manifestTimeout = 60 * time.Second
)

// source is one address of a stream's description or one line of a manifest: a pattern, or exactly one
// object.
type source struct {
	address string // as the user wrote it
	pattern *api.Pattern
	bucket  string
	key     string
}

// found is what a stream needs to know of an object; version 0 is none.
type found struct {
	version, samples, size, maxSample int64
	archive                           bool
}

func foundOf(o *api.Object) found {
	return found{int64(o.Version), o.Samples, o.Size, o.MaxSample, o.Archive != string(archive.None)}
}

// list adds the objects of the sources to a snapshot, in the order given and by name within a pattern, and
// their bytes to the stream's. It returns the buckets of the sources that have backends.
func (g *Gateway) list(ctx context.Context, addresses []string, l *list) (coldBuckets, error) {
	sources, err := g.expand(ctx, addresses)
	if err != nil {
		return nil, err
	}
	cold, err := g.coldOf(ctx, sources)
	if err != nil {
		return nil, err
	}
	l.seed = maphash.MakeSeed()
	if len(sources) > 1 { // their shards are counted one source after the other
		l.first = nil
	}
	return cold, g.listSources(ctx, sources, cold, l)
}

func (g *Gateway) listSources(ctx context.Context, sources []source, cold coldBuckets, l *list) error {
	exact, err := g.lookUp(ctx, sources, cold, l)
	if err != nil {
		return err
	}
	if len(sources) > 1 || sources[0].pattern == nil {
		l.seen = make(map[uint64]struct{}, len(sources))
	}
	for i := range sources {
		s := &sources[i]
		l.before = sources[:i]
		if s.pattern != nil {
			err = g.matches(ctx, s.pattern, cold[s.bucket], l)
		} else {
			_, err = l.add(s, s.key, exact[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// list gathers the shards of a snapshot.
type list struct {
	plain  bool      // objects are samples
	ahead  bool      // they are read at once
	first  *firstUse // nil: not known
	shards *sampler.Builder
	info   *api.StreamInfo

	progress *progress

	// What finds objects that two sources name: hashes only, as there may be many millions of names. Where
	// one comes again, the sources before say whether it was the same. Nil where there is one source.
	seen   map[uint64]struct{}
	seed   maphash.Seed
	before []source
}

// again says whether an earlier source named the object too.
func (l *list) again(bucket, key string) bool {
	if l.seen == nil {
		return false
	}
	h := maphash.String(l.seed, bucket+"/"+key)
	if _, ok := l.seen[h]; !ok {
		l.seen[h] = struct{}{}
		return false
	}
	return slices.ContainsFunc(l.before, func(s source) bool {
		return s.bucket == bucket && (s.pattern == nil && s.key == key || s.pattern != nil && s.pattern.Match(key))
	})
}

// add takes an object that a source names, if it is of the kind that the stream is of. What patterns match
// besides is passed over; but a tar without an index, or another object that was named outright, is an error
// rather than a silently shorter epoch.
func (l *list) add(s *source, key string, o found) (taken bool, err error) {
	named := s.pattern == nil || s.pattern.Exact(key)
	switch {
	case l.plain:
		if _, _, ok := archive.Split(key); !ok {
			if named {
				return false, badStream("source %.200s: %s has no extension, which would name its column", s.address, api.Address(s.bucket, clipName(key)))
			}
			return false, nil
		}
		o.samples, o.maxSample = 1, o.size
	case !o.archive:
		if named || archive.FormatOf(key) != archive.None {
			return false, badStream("source %.200s: %s is not an indexed tar (it was stored as opaque bytes, or is something else); put it again as a .tar, or stream objects as they are with samples=%s",
				s.address, api.Address(s.bucket, key), api.SamplesObjects)
		}
		return false, nil
	}
	if l.again(s.bucket, key) {
		return false, badStream("%s %s is named by two sources; its samples would come twice an epoch", l.noun(), api.Address(s.bucket, clipName(key)))
	}
	if err := l.shards.Add(sampler.Shard{Name: s.bucket + "/" + key, Version: uint64(o.version), Samples: o.samples}); err != nil {
		return false, badStream("%v", err)
	}
	l.info.Bytes += o.size
	l.info.MaxSample = max(l.info.MaxSample, o.maxSample)
	return true, nil
}

func (l *list) noun() string {
	if l.plain {
		return "object"
	}
	return "shard"
}

// expand parses the addresses and puts the lines of manifests in their place.
func (g *Gateway) expand(ctx context.Context, addresses []string) ([]source, error) {
	sources := make([]source, 0, len(addresses))
	for _, address := range addresses {
		if manifest, ok := strings.CutPrefix(address, api.ManifestPrefix); ok {
			lines, err := g.readManifest(ctx, manifest)
			if err != nil {
				return nil, err
			}
			for _, line := range lines {
				bucket, key, _ := api.ParseAddress(line) // it is one
				sources = append(sources, source{address: line, bucket: bucket, key: key})
			}
			continue
		}
		pattern, err := api.ParsePattern(address)
		if err != nil {
			return nil, err
		}
		s := source{address: address, pattern: pattern, bucket: pattern.Bucket}
		if key, ok := pattern.Name(); ok {
			s.pattern, s.key = nil, key
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// lookUp describes the objects that are named exactly, and fails with those that there are not. The names of
// a bucket are asked of all targets together, thousands at a time.
func (g *Gateway) lookUp(ctx context.Context, sources []source, cold coldBuckets, l *list) ([]found, error) {
	out := make([]found, len(sources))
	buckets := map[string][]int{}
	for i := range sources {
		if s := &sources[i]; s.pattern == nil {
			buckets[s.bucket] = append(buckets[s.bucket], i)
		}
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(statRequests)
	for bucket, numbers := range buckets {
		if b := cold[bucket]; b != nil {
			group.Go(func() error { return g.lookUpCold(gctx, b, sources, numbers, out, l) })
			continue
		}
		for from := 0; from < len(numbers); from += statAtOnce {
			some := numbers[from:min(from+statAtOnce, len(numbers))]
			group.Go(func() error { return g.stat(gctx, bucket, sources, some, out) })
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return out, missing(sources, out)
}

// stat describes some of the sources, which are in one bucket; out is written at their places alone.
func (g *Gateway) stat(ctx context.Context, bucket string, sources []source, some []int, out []found) error {
	return g.statLines(ctx, bucket, sources, some, func(n int, line *copies.Listed) {
		if out[n] = (found{}); !line.Deleted {
			out[n] = foundOf(&line.Object)
		}
	})
}

// statLines visits what targets have of some of the sources, which are in one bucket, by their numbers; again where the map
// changes meanwhile.
func (g *Gateway) statLines(ctx context.Context, bucket string, sources []source, some []int, visit func(n int, line *copies.Listed)) error {
	asked, places := api.Names{Names: make([]string, len(some))}, make(map[string][]int, len(some))
	for i, n := range some {
		asked.Names[i] = sources[n].key
		places[sources[n].key] = append(places[sources[n].key], n)
	}
	body, err := json.Marshal(asked)
	if err != nil {
		return err
	}
	return g.byOneMap(ctx, bucket, func(l *listing) error {
		answers, err := askAll[copies.Page](ctx, l, http.MethodPost, copies.PathStat+url.PathEscape(bucket), nil, body)
		if err != nil {
			return err
		}
		for _, e := range mergePages(answers, "") { // several targets may have one: the newest counts
			for _, n := range places[e.name] {
				visit(n, e.object)
			}
		}
		return nil
	})
}

// missing is an error that counts the objects that were not found and names the first.
func missing(sources []source, out []found) error {
	var names []string
	exact, absent := 0, 0
	for i := range sources {
		s := &sources[i]
		if s.pattern != nil {
			continue
		}
		if exact++; out[i].version != 0 {
			continue
		}
		if absent++; len(names) < shownMissing {
			names = append(names, api.Address(s.bucket, clipName(s.key)))
		}
	}
	if absent == 0 {
		return nil
	}
	more := ""
	if absent > len(names) {
		more = ", ..."
	}
	return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "%d of the %d objects that the sources name are not there: there is no object %s%s; put them, or correct the sources",
		absent, exact, strings.Join(names, ", "), more)
}

// matches adds the objects of a pattern; cold is its bucket, where that has a backend.
func (g *Gateway) matches(ctx context.Context, p *api.Pattern, cold *api.Bucket, l *list) error {
	s := &source{address: p.Address, pattern: p, bucket: p.Bucket}
	taken, others := 0, 0
	add := func(o *api.Object) error {
		if !p.Match(o.Name) {
			return nil
		}
		ok, err := l.add(s, o.Name, foundOf(o))
		if ok {
			taken++
		} else {
			others++
		}
		return err
	}
	var err error
	if cold != nil {
		err = g.walkCold(ctx, cold, p, l, add)
	} else {
		err = g.walk(ctx, p.Bucket, p.Prefix, add)
	}
	if err != nil {
		return err
	}
	if name, missing := p.Missing(); missing {
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s: there is no object %s; put it, or correct the source", p.Address, api.Address(p.Bucket, clipName(name)))
	}
	switch {
	case taken > 0:
		return nil
	case others == 0:
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s matches no object; `shardstream ls %s` shows what is there", p.Address, api.Address(p.Bucket, ""))
	case l.plain:
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s matches no object with an extension (%d without one match); `shardstream ls %s` shows what is there", p.Address, others, api.Address(p.Bucket, ""))
	default:
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "source %.200s matches no tar shard (%d other objects match; samples=%s streams these); `shardstream ls %s` shows what is there",
			p.Address, others, api.SamplesObjects, api.Address(p.Bucket, ""))
	}
}

func clipName(name string) string { return name[:min(len(name), maxShownNames)] }

// readManifest fetches and parses a list of objects that is an object itself.
func (g *Gateway) readManifest(ctx context.Context, address string) ([]string, error) {
	bucket, key, err := api.ParseAddress(address)
	if err != nil || key == "" {
		return nil, badStream("manifest %.200q is not %s before the address of an object, ss://bucket/key", address, api.ManifestPrefix)
	}
	b, err := g.bucket(ctx, bucket)
	if err != nil {
		return nil, err
	}
	owner, err := g.Primary(&b.Bucket, key)
	if err != nil {
		return nil, err
	}
	data, err := g.fetch(ctx, owner, bucket, key)
	if err != nil {
		return nil, err
	}
	lines, err := api.ParseManifest(data)
	if err != nil {
		return nil, badStream("manifest %.200s: %v", address, err)
	}
	return lines, nil
}

// fetch reads a small object from the target that owns it, or from one that it sends us on to.
func (g *Gateway) fetch(ctx context.Context, owner api.Node, bucket, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+owner.Addr+api.ObjectPath(bucket, key), http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Header.Set(api.HeaderRequestID, telemetry.RequestIDOf(ctx))
	client := *g.peers
	client.CheckRedirect = nil
	response, err := client.Do(request)
	if err != nil {
		return nil, silent(owner, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= 300 {
		return nil, manifestError(api.ErrorOf(response), bucket, key)
	}
	if response.ContentLength > api.MaxManifest {
		return nil, badStream("manifest %s has %d bytes, at most %d are possible", api.Address(bucket, key), response.ContentLength, int64(api.MaxManifest))
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, api.MaxManifest+1))
	if err != nil {
		return nil, silent(owner, err)
	}
	if sums, err := api.ParseChecksums(response.Header.Get(api.HeaderChecksum)); err == nil && sums.XXH3 != nil && *sums.XXH3 != xxh3.Hash(data) {
		return nil, silent(owner, fmt.Errorf("%s arrived damaged", api.Address(bucket, key)))
	}
	return data, nil
}

// manifestError says that it is the manifest that is missing.
func manifestError(err error, bucket, key string) error {
	var answer *api.Error
	if errors.As(err, &answer) && answer.Status == http.StatusNotFound {
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "there is no manifest %s; put it, or correct the source", api.Address(bucket, key))
	}
	return err
}
