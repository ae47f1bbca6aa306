package target

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/core/store"
)

// Slices are put, read and asked for by version and number, between targets. Nobody answers for them: what an object
// is, its description says, of which there are copies.

func (t *Target) sliceRoutes() {
	t.Handle("POST", copies.PathSliceHave, t.haveSlices)
	t.Handle("POST", copies.PathSliceCommit, t.commitSlice)
	t.Handle("POST", copies.PathSliceLook, t.lookAtSlices)
	t.Handle("PUT", copies.PathSlice+"{bucket}/{key...}", t.putSlice)
	t.Handle("GET", copies.PathSlice+"{bucket}/{key...}", t.getSlice)
	t.Handle("POST", "/v1/internal/buckets/{bucket}/evict", t.evict)
	t.Handle("POST", "/v1/internal/buckets/{bucket}/prefetch", t.prefetchCached)
	t.Handle("GET", "/v1/internal/buckets/{bucket}/cache", t.cacheStatus)
}

// haveSlices says which slices of some versions are here.
func (t *Target) haveSlices(r *Request) error {
	if _, err := r.fromPeer(); err != nil {
		return err
	}
	var asked copies.SliceQuestion
	if err := r.JSON(maxHave, &asked); err != nil {
		return err
	}
	if len(asked.Objects) > copies.MaxNames {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%d objects at once; ask for %d at most", len(asked.Objects), copies.MaxNames)
	}
	answer := copies.SliceAnswer{Slices: make([][]int, len(asked.Objects))}
	for i, object := range asked.Objects {
		var err error
		if answer.Slices[i], err = t.slices.Own(asked.Bucket, object); err != nil {
			return err
		}
	}
	return r.WriteJSON(http.StatusOK, answer)
}

// putSlice stages a slice.
func (t *Target) putSlice(r *Request) error {
	err := t.tryPutSlice(r)
	if err != nil {
		r.drainUpload()
	}
	return err
}

func (t *Target) tryPutSlice(r *Request) error {
	if _, err := r.fromCurrentPeer(); err != nil {
		return err
	}
	bucket, key, err := r.names()
	if err != nil {
		return err
	}
	info, err := copies.Parse(r.Header(copies.Header), bucket, key)
	if err != nil || r.Query("stage") == "" || info.Kind != store.Slice || info.Data < 1 || info.Slice >= info.Data+info.Parity {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "a slice comes with stage=ID, and a description that says which one it is: %v", err)
	}
	o := store.PutOptions{Size: info.Size, Data: info.Data, Parity: info.Parity, Created: info.Created}
	o.Internal = info.Version != 0 // of an object that is there: it is made anew
	staged, err := t.store.StageSlice(r.Context(), bucket, key, info.Slice, &uploadMarker{r.upload()}, o)
	if err != nil {
		return err
	}
	if err := t.stages.add(r.Query("stage"), staged); err != nil {
		return err
	}
	r.SetStatusCode(http.StatusCreated)
	return nil
}

// commitSlice makes a staged slice one of a version.
func (t *Target) commitSlice(r *Request) error {
	if _, err := r.fromCurrentPeer(); err != nil {
		return err
	}
	var c copies.Commit
	if err := r.JSON(maxNames, &c); err != nil {
		return err
	}
	staged := t.stages.take(c.Stage)
	if staged == nil {
		return unavailable("nothing is staged under this id, or no longer")
	}
	if info := staged.Info(); info.Kind != store.Slice || c.Version == 0 {
		return errors.Join(api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "what is staged is no slice, or has no version"), staged.Discard())
	}
	if _, err := staged.Commit(c.Version, c.Created, store.Condition{}); err != nil {
		return err
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// getSlice sends a slice from an offset on, verified.
func (t *Target) getSlice(r *Request) error {
	if _, err := r.fromPeer(); err != nil {
		return err
	}
	bucket, key, err := r.names()
	if err != nil {
		return err
	}
	version, bad := strconv.ParseUint(r.Query("version"), 10, 64)
	number, err := r.number("slice", 0)
	from, failed := r.number("from", 0)
	if err := errors.Join(bad, err, failed); err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "a slice is read by version, slice and from: %v", err)
	}
	slice := store.SliceKey{Bucket: bucket, Name: key, Version: version, Slice: int(number)}
	object, err := t.store.OpenSlice(slice)
	if err == nil {
		if size := object.Info().Size; from > size {
			return errors.Join(api.Errorf(http.StatusRequestedRangeNotSatisfiable, api.CodeRange, "%s has %d bytes", slice, size), object.Close())
		}
		var body *sectionBody
		if body, err = newSectionBody(r, object, from, object.Info().Size-from); err == nil {
			r.SetContentType("application/octet-stream")
			r.body = body
			r.Response.SetBodyStream(body, int(body.n))
			return nil
		}
		err = errors.Join(err, object.Close())
	}
	t.slices.Damaged(slice, err)
	return err
}

// lookAtSlices has slices of some objects be looked at, which may be of no use any more.
func (t *Target) lookAtSlices(r *Request) error {
	if _, err := r.fromPeer(); err != nil {
		return err
	}
	var asked copies.HaveRequest
	if err := r.JSON(maxHave, &asked); err != nil {
		return err
	}
	t.slices.LookAt(asked.Bucket, asked.Names)
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// evict takes away whole copies of erasure-coded objects, or cached objects of a bucket with a backend.
func (t *Target) evict(r *Request) error {
	bucket := r.Param("bucket")
	if err := store.CheckBucket(bucket); err != nil {
		return err
	}
	b, err := t.members.FindBucket(r.Context(), bucket)
	if err != nil {
		return err
	}
	if b.Backend != nil {
		return t.evictCached(r, bucket)
	}
	done, err := t.slices.Evict(r.Context(), bucket, r.Query("prefix"))
	if err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, done)
}
