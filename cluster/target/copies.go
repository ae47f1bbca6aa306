package target

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

const (
	// lockPatience is how long a copy waits for a write of the same name that is under way here.
	lockPatience = 5 * time.Second
	maxHave      = copies.MaxNames * 1200
)

func (t *Target) copyRoutes() {
	t.Handle("POST", copies.PathHave, t.haveCopies)
	t.Handle("POST", copies.PathCommit, t.commitCopy)
	t.Handle("POST", copies.PathDiscard, t.discardCopy)
	t.Handle("POST", copies.PathBury, t.buryCopy)
	t.Handle("GET", copies.PathList+"{bucket}", t.listCopies)
	t.Handle("POST", copies.PathStat+"{bucket}", t.statCopies)
	t.Handle("PUT", copies.PathObject+"{bucket}/{key...}", t.putCopy)
	t.Handle("GET", copies.PathObject+"{bucket}/{key...}", t.getCopy)
}

// haveCopies says what this node has of objects.
func (t *Target) haveCopies(r *Request) error {
	if _, err := r.fromCurrentPeer(); err != nil { // answers of different maps prove nothing together
		return err
	}
	var asked copies.HaveRequest
	if err := r.JSON(maxHave, &asked); err != nil {
		return err
	}
	if len(asked.Names) > copies.MaxNames {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%d names at once; ask for %d at most", len(asked.Names), copies.MaxNames)
	}
	answer := copies.HaveAnswer{States: make([]copies.State, len(asked.Names))}
	for i, name := range asked.Names {
		if asked.Settle {
			// A write that was let in by an older map either ends before this answer, or is refused when it commits.
			if err := t.passed(r.Context(), asked.Bucket, name); err != nil {
				return err
			}
		}
		var err error
		if answer.States[i], err = t.own(asked.Bucket, name); err != nil {
			return err
		}
	}
	return r.WriteJSON(http.StatusOK, answer)
}

// passed waits for what is under way for an object.
func (t *Target) passed(ctx context.Context, bucket, key string) error {
	ctx, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	unlock, err := t.locks.lock(ctx, bucket, key)
	if err == nil {
		unlock()
	}
	return err
}

// own is what this node knows of an object.
func (t *Target) own(bucket, key string) (copies.State, error) {
	info, ok, err := t.store.State(bucket, key)
	switch {
	case errors.Is(err, store.ErrDiskFailed):
		return copies.State{Unknown: !t.knownLoss(bucket)}, nil
	case err != nil || !ok:
		return copies.State{}, err
	}
	return copies.StateOf(info), nil
}

// knownLoss says that the cluster knows of all that this node has lost, and has copies of it elsewhere: what is on none of
// the disks in use is not here then, whatever the others had.
func (t *Target) knownLoss(bucket string) bool {
	b, ok := t.members.View().Bucket(bucket)
	return ok && b.Copies() > 1 && len(b.Was) == 0 && t.told.Load() == t.store.Losses()
}

// putCopy takes in the body of a copy: to be committed by another request (stage=ID), or at once (version=V).
func (t *Target) putCopy(r *Request) error {
	err := t.tryPutCopy(r)
	if err != nil {
		r.drainUpload()
	}
	return err
}

func (t *Target) tryPutCopy(r *Request) error {
	version, err := r.fromCurrentPeer()
	if err != nil {
		return err
	}
	bucket, key, err := r.names()
	if err != nil {
		return err
	}
	info, err := copies.Parse(r.Header(copies.Header), bucket, key)
	if err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%v", err)
	}
	id := r.Query("stage")
	if id == "" && strconv.FormatUint(info.Version, 10) != r.Query("version") || info.Kind != store.Whole && info.Kind != store.Stub {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "a copy comes with stage=ID, or with its version, and is whole or a stub")
	}
	staged, err := t.stageCopy(r.Context(), info, &uploadMarker{r.upload()})
	if err != nil {
		return err
	}
	if id != "" {
		got := staged.Info()
		if err := t.stages.add(id, staged); err != nil {
			return err
		}
		return r.WriteJSON(http.StatusCreated, copies.Staged{Size: got.Size, XXH3: got.XXH3, CRC32: got.CRC32})
	}
	a := arrival{
		sender: r.Header(copies.HeaderNode), version: version, bucket: bucket, key: key, state: copies.StateOf(info),
		commit: func() error { return t.commitStaged(staged, info.Version, info.Created) },
	}
	if r.Query("replace") == "true" {
		a.replace = func() error {
			_, err := staged.Replace(info.Version, info.Created, false)
			return err
		}
	}
	if err := errors.Join(t.take(r.Context(), a), staged.Discard()); err != nil {
		return err
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// stageCopy stages a copy as it is described. Of one that has no version yet the checksums are not known either.
func (t *Target) stageCopy(ctx context.Context, info store.Info, body io.Reader) (*store.Staged, error) {
	if info.Kind == store.Stub {
		index, err := readIndex(body)
		if err != nil {
			return nil, err
		}
		return t.store.StageStub(ctx, info, index)
	}
	o := info.PutOptions()
	if o.Internal = info.Version != 0; !o.Internal { // else it heals, or is small: the primary found room for it
		o.XXH3, o.CRC32 = nil, nil
	}
	return t.store.Stage(ctx, info.Bucket, info.Name, body, o)
}

// maxStubIndex bounds the member index that comes with a stub. It is that of some ten million members.
const maxStubIndex = 256 << 20

// readIndex reads the member index that a stub comes with; nil where it has none, or comes without a body.
func readIndex(body io.Reader) (*archive.Index, error) {
	if body == nil {
		return nil, nil //nolint:nilnil // as below
	}
	b, err := io.ReadAll(io.LimitReader(body, maxStubIndex+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) == 0:
		return nil, nil //nolint:nilnil // absence is an answer here
	case len(b) > maxStubIndex:
		return nil, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "the member index of a stub has more than %d bytes", maxStubIndex)
	}
	index, err := archive.UnmarshalIndex(b)
	if err != nil {
		return nil, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%v", err)
	}
	return index, nil
}

// holding is what this node gives others of a version of an object: its copy, open, or the description of one whose bytes
// are elsewhere, with the member index in stored form.
func (t *Target) holding(bucket, key string, version uint64) (info store.Info, index []byte, object *store.Object, err error) {
	info, _, err = t.store.State(bucket, key)
	switch {
	case err != nil:
		return info, nil, nil, err
	case info.Version == version && info.Data > 0:
		return stub(info), nil, nil, nil
	case info.Version == version && info.Kind == store.Stub:
		return t.description(bucket, key, version)
	}
	object, err = t.store.Open(bucket, key)
	if errors.Is(err, store.ErrStub) { // it was evicted in this moment
		return t.description(bucket, key, version)
	}
	if err != nil {
		return info, nil, nil, err
	}
	if info = object.Info(); info.Version != version {
		return info, nil, nil, errors.Join(otherVersion(info), object.Close())
	}
	return info, nil, object, nil
}

func (t *Target) description(bucket, key string, version uint64) (store.Info, []byte, *store.Object, error) {
	info, x, err := t.store.Describe(bucket, key)
	if err != nil {
		return info, nil, nil, err
	}
	if info.Version != version || info.Kind != store.Stub {
		return info, nil, nil, otherVersion(info)
	}
	var index []byte
	if x != nil {
		index, err = x.MarshalBinary()
	}
	return info, index, nil, err
}

// commitCopy makes a staged body a copy.
func (t *Target) commitCopy(r *Request) error {
	version, err := r.fromPeer()
	if err != nil {
		return err
	}
	var c copies.Commit
	if err := r.JSON(maxNames, &c); err != nil {
		return err
	}
	staged := t.stages.take(c.Stage)
	if staged == nil { // it may have been committed, and the answer lost
		err := t.isThere(c.Bucket, c.Name, c.Version, errors.New("nothing is staged under this id, or no longer"))
		if err == nil {
			r.SetStatusCode(http.StatusNoContent)
		}
		return err
	}
	info := staged.Info()
	err = t.take(r.Context(), arrival{
		sender: r.Header(copies.HeaderNode), version: version, bucket: info.Bucket, key: info.Name,
		state:  copies.State{Version: c.Version, Kind: info.Kind, Size: info.Size, XXH3: info.XXH3},
		commit: func() error { return t.commitStaged(staged, c.Version, c.Created) },
	})
	if err := errors.Join(err, staged.Discard()); err != nil {
		return err
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

func (t *Target) discardCopy(r *Request) error {
	var c copies.Commit
	if err := r.JSON(maxNames, &c); err != nil {
		return err
	}
	t.stages.discard(c.Stage)
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// buryCopy deletes an object by a write of another target.
func (t *Target) buryCopy(r *Request) error {
	version, err := r.fromPeer()
	if err != nil {
		return err
	}
	var b copies.Bury
	if err := r.JSON(maxNames, &b); err != nil {
		return err
	}
	if err := errors.Join(store.CheckBucket(b.Bucket), store.CheckName(b.Name)); err != nil {
		return err
	}
	err = t.take(r.Context(), arrival{
		sender: r.Header(copies.HeaderNode), version: version, bucket: b.Bucket, key: b.Name,
		state:  copies.State{Version: b.Version, Kind: store.Tombstone},
		commit: func() error { return t.bury(r.Context(), b.Bucket, b.Name, b.Version) },
	})
	if err != nil {
		return err
	}
	r.SetStatusCode(http.StatusNoContent)
	return nil
}

// getCopy sends this node's copy of exactly that version, verified. Of an object that is in slices it is a stub, which
// has no body.
func (t *Target) getCopy(r *Request) error {
	if _, err := r.fromPeer(); err != nil {
		return err
	}
	bucket, key, err := r.names()
	if err != nil {
		return err
	}
	version, err := strconv.ParseUint(r.Query("version"), 10, 64)
	if err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "version=%q is not a version", clip(r.Query("version")))
	}
	r.SetContentType("application/octet-stream")
	info, index, object, err := t.holding(bucket, key, version)
	if err != nil {
		return err
	}
	if object == nil {
		r.Response.Header.Set(copies.Header, copies.Describe(info))
		r.Response.SetBodyRaw(index)
		return nil
	}
	body, err := newSectionBody(r, object, 0, info.Size)
	if err != nil {
		return errors.Join(err, object.Close())
	}
	r.Response.Header.Set(copies.Header, copies.Describe(info))
	r.body = body
	r.Response.SetBodyStream(body, int(info.Size))
	return nil
}

func otherVersion(info store.Info) error {
	return api.Errorf(http.StatusConflict, api.CodeChanged, "%s is here in version %d", api.Address(info.Bucket, info.Name), info.Version)
}

// bodyOf reads an object that is open, verified, in pieces of the size that the store reads at once.
func bodyOf(object *store.Object) io.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(object, 0, object.Info().Size), int(min(max(object.Info().Size, 1), firstPiece)))
}
