package target

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/cache"
	"github.com/shardstream/shardstream/core/store"
)

const (
	// A target that is asked to fetch objects answers once it has dealt with all, after a moment if it has dealt with some
	// by then, or after a longer time: what is under way goes on, and is asked for again.
	partMoment = time.Second
	partLimit  = 20 * time.Second
	// partAtOnce is how many objects of one request are fetched at a time.
	partAtOnce   = 16
	maxCacheBody = 1 << 20
)

// prefetchCached fetches named objects of a bucket from its backend.
func (t *Target) prefetchCached(r *Request) error {
	return t.cachePart(r, func(ctx context.Context, bucket, name string) (api.CacheResult, error) {
		before, err := t.store.Stat(bucket, name)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return api.CacheResult{}, err
		}
		if err := t.cache.Prefetch(ctx, bucket, name, 0); err != nil {
			return api.CacheResult{}, err
		}
		after, err := t.store.Stat(bucket, name)
		if err != nil { // it was evicted at once
			return api.CacheResult{}, err
		}
		result := api.CacheResult{Skipped: before.Kind == store.Whole && before.Version == after.Version}
		if !result.Skipped {
			result.Bytes = after.Size
		}
		return result, nil
	})
}

// evictCached takes named objects away that are cached, or those whose names begin with a prefix.
func (t *Target) evictCached(r *Request, bucket string) error {
	if r.Request.Header.ContentLength() == 0 {
		done, err := t.evictPrefix(r.Context(), bucket, r.Query("prefix"))
		if err != nil {
			return err
		}
		return r.WriteJSON(http.StatusOK, done)
	}
	return t.cachePart(r, func(ctx context.Context, bucket, name string) (api.CacheResult, error) {
		bytes, err := t.cache.Evict(ctx, bucket, name)
		if stays(err) {
			return api.CacheResult{Skipped: true}, nil
		}
		return api.CacheResult{Bytes: bytes, Skipped: bytes == 0}, err
	})
}

// stays tells objects that are not to be evicted: the cluster's own, pinned ones, and those that are not there.
func stays(err error) bool {
	return errors.Is(err, store.ErrSole) || errors.Is(err, cache.ErrPinned) || errors.Is(err, store.ErrNotFound)
}

func (t *Target) evictPrefix(ctx context.Context, bucket, prefix string) (done api.Evicted, err error) {
	for last := ""; ; {
		infos, more, err := t.store.List(bucket, prefix, last, maxPage)
		if err != nil {
			return done, err
		}
		for i := range infos {
			last = infos[i].Name
			if infos[i].Kind != store.Whole {
				continue
			}
			bytes, err := t.cache.Evict(ctx, bucket, last)
			switch {
			case stays(err):
				done.Kept++
			case err != nil:
				return done, err
			default:
				done.Objects++
				done.Bytes += bytes
			}
		}
		if !more || ctx.Err() != nil {
			return done, ctx.Err()
		}
	}
}

// cacheStatus says how much of a bucket with a backend is here.
func (t *Target) cacheStatus(r *Request) error {
	bucket := r.Param("bucket")
	if err := store.CheckBucket(bucket); err != nil {
		return err
	}
	status, err := t.cache.Status(r.Context(), bucket)
	if err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, status)
}

// cachePart deals with named objects of a bucket, as many as come to an end in time.
func (t *Target) cachePart(r *Request, do func(ctx context.Context, bucket, name string) (api.CacheResult, error)) error {
	if _, err := r.fromPeer(); err != nil {
		return err
	}
	b, err := t.members.FindBucket(r.Context(), r.Param("bucket"))
	if err != nil {
		return err
	}
	var part api.CachePart
	if err := r.JSON(maxCacheBody, &part); err != nil {
		return err
	}
	if b.Backend == nil || len(part.Names) > api.MaxCachePart {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "bucket %s has no backend, or %d names are too many", b.Name, len(part.Names))
	}
	ctx, cancel := context.WithTimeout(r.Context(), partLimit)
	defer cancel()
	p := cacheWork{report: api.CacheReport{Done: []api.CacheResult{}}, moment: time.Now().Add(partMoment), end: cancel}
	timer := time.AfterFunc(partMoment, p.look)
	defer timer.Stop()
	group := new(errgroup.Group)
	group.SetLimit(partAtOnce)
	for _, name := range part.Names {
		group.Go(func() error {
			var result api.CacheResult
			err := ctx.Err()
			if err == nil {
				result, err = do(ctx, b.Name, name)
			}
			result.Name = name
			p.add(result, err, ctx.Err() != nil)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, p.report)
}

// cacheWork gathers what came of the objects of a request.
type cacheWork struct {
	moment time.Time
	end    func() // of the waiting

	mu     sync.Mutex
	report api.CacheReport
}

func (p *cacheWork) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endIfDue()
}

// endIfDue ends the waiting for others once something is there to be told. The caller holds mu.
func (p *cacheWork) endIfDue() {
	if len(p.report.Done) > 0 && !time.Now().Before(p.moment) {
		p.end()
	}
}

func (p *cacheWork) add(result api.CacheResult, err error, ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		if ended {
			p.report.Open++
			return
		}
		if result.Error = partError(result.Name, err); result.Error.Code == api.CodeUnavailable {
			return // another is the primary by now, or this node is cut off: it is asked for again
		}
	}
	p.report.Done = append(p.report.Done, result)
	p.endIfDue()
}

func partError(name string, err error) *api.Error {
	if errors.Is(err, cache.ErrNoRoom) {
		return api.Errorf(http.StatusInsufficientStorage, api.CodeNoSpace,
			"%s: %v; raise the bucket's quota, evict or unpin others, or add disks", name, err)
	}
	return AsError(err)
}
