package target

import (
	"context"
	"errors"
	"net/http"
	"os"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

func (t *Target) getHealth(r *Request) error {
	health := api.Health{
		ID: t.id, Role: api.RoleTarget, State: api.StateOK, PID: os.Getpid(),
		Map: t.Placer().Map.Version, Disks: t.Disks(),
	}
	for _, d := range health.Disks {
		if d.State != api.StateOK && d.State != api.DiskLeaving {
			health.State = api.StateDegraded
		}
	}
	return r.WriteJSON(http.StatusOK, health)
}

func (t *Target) getMetrics(r *Request) error {
	r.SetContentType(t.metrics.ContentType())
	return t.metrics.WriteText(r.Response.BodyWriter())
}

// locate says where this node's copy of an object lies, whether or not there is one. A gateway asks all who may have
// one.
func (t *Target) locate(r *Request, bucket, key string) error {
	p, err := t.place(r.Context(), bucket, key)
	if err != nil {
		return err
	}
	location := api.Location{
		Object: api.Address(bucket, key), URL: "http://" + p.primary.Addr + api.ObjectPath(bucket, key), Copies: []api.Copy{},
	}
	info, files, err := t.store.Locate(bucket, key)
	switch {
	case err == nil && info.Kind == store.Lost: // there is no copy any more
	case err == nil:
		location.Version = info.Version
		location.Copies = append(location.Copies, api.Copy{Node: t.id, Disk: info.Disk, Kind: kindOf(info), Files: files, Version: info.Version})
	case errors.Is(err, store.ErrDiskFailed) && p.bucket.Copies() > 1: // what it has lies elsewhere, too
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	slices, err := t.locateSlices(bucket, key)
	if err != nil && !errors.Is(err, store.ErrDiskFailed) {
		return err
	}
	location.Copies = append(location.Copies, slices...)
	return r.WriteJSON(http.StatusOK, location)
}

// kindOf names what a copy is.
func kindOf(i store.Info) string {
	switch {
	case i.Kind == store.Stub:
		return api.KindStub
	case i.Data > 0:
		return api.KindCache
	}
	if _, cached := i.Origin(); cached {
		return api.KindCache
	}
	return api.KindWhole
}

func (t *Target) findings(found []store.Finding) []api.Finding {
	out := make([]api.Finding, len(found))
	for i, f := range found {
		out[i] = api.Finding{Node: t.id, Disk: f.Disk, File: f.File, Block: f.Block, Detail: f.Detail}
		if f.Bucket != "" {
			out[i].Object = api.Address(f.Bucket, f.Name)
		}
	}
	return out
}

// settle waits until this node sees the cluster's state as of the revision in the query: from then on
// no PUT that it answers can be for a bucket that the revision shows as being deleted.
func (t *Target) settle(r *Request) (bucket string, err error) {
	bucket = r.Param("bucket")
	if err := store.CheckBucket(bucket); err != nil {
		return "", err
	}
	revision, err := r.number("revision", 0)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(r.Context(), peerTimeout/2)
	defer cancel()
	_, err = t.members.Wait(ctx, revision)
	return bucket, err
}

func (t *Target) bucketEmpty(r *Request) error {
	bucket, err := t.settle(r)
	if err != nil {
		return err
	}
	empty, err := t.store.Empty(bucket)
	if b, ok := t.members.View().Bucket(bucket); ok && b.Backend != nil && !empty && err == nil {
		empty, err = t.ownsNothing(bucket)
	}
	if err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, map[string]bool{"empty": empty})
}

// ownsNothing says that all that is here of a bucket is at its backend too.
func (t *Target) ownsNothing(bucket string) (bool, error) {
	for last := ""; ; {
		infos, more, err := t.store.List(bucket, "", last, maxPage)
		if err != nil {
			return false, err
		}
		for i := range infos {
			if _, cached := infos[i].Meta[api.OriginTag]; !cached {
				return false, nil
			}
			last = infos[i].Name
		}
		if !more {
			return true, nil
		}
	}
}

// dropBucket deletes all objects of a bucket that is being deleted. It refuses for any other.
func (t *Target) dropBucket(r *Request) error {
	bucket, err := t.settle(r)
	if err != nil {
		return err
	}
	if b, ok := t.members.View().Bucket(bucket); ok && !b.Deleting {
		return api.Errorf(http.StatusConflict, api.CodeExists, "bucket %s is in use", bucket)
	}
	if err := t.store.DropBucket(r.Context(), bucket); err != nil {
		return err
	}
	t.cache.Dropped(bucket)
	r.SetStatusCode(http.StatusNoContent)
	return nil
}
