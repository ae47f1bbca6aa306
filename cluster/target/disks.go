package target

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// DiskTable keeps across restarts which disks a node has.
type DiskTable interface {
	// Save keeps the list. Each disk's State is how it is to be opened: see store.Disk.
	Save(disks []store.Disk) error
}

// DiskKeeper changes a node's disks while it runs, and tells the cluster of those that come and go by themselves.
type DiskKeeper struct {
	t       *Target
	table   DiskTable
	told    ToldDisks
	changed chan struct{} // the state of a disk changed
	leaving chan string   // a disk whose objects are to be moved

	mu    sync.Mutex // held while disks are changed
	disks []store.Disk

	moves sync.Map // of disk ids to *api.DiskMove
}

// ToldDisks is what a node registered its disks as.
type ToldDisks struct {
	Disks  []api.Disk
	Losses uint64 // of the store, by then
}

// NewDiskKeeper serves /v1/disks. disks are those that the store was opened with.
func NewDiskKeeper(t *Target, disks []store.Disk, table DiskTable, told ToldDisks) *DiskKeeper {
	k := &DiskKeeper{
		t: t, table: table, told: told, disks: slices.Clone(disks),
		changed: make(chan struct{}, 1), leaving: make(chan string, 1),
	}
	t.Handle("GET", "/v1/disks", k.list)
	t.Handle("POST", "/v1/disks", k.add)
	t.Handle("GET", "/v1/disks/{disk}", k.show)
	t.Handle("PATCH", "/v1/disks/{disk}", k.patch)
	t.Handle("DELETE", "/v1/disks/{disk}", k.remove)
	return k
}

// Changed tells that the state of a disk may have changed; it never blocks.
func (k *DiskKeeper) Changed() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Run registers the node anew after its disks have changed, as one that has less than it had where a disk is out of use,
// and moves the objects of disks that are to leave. It ends with the context.
func (k *DiskKeeper) Run(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() { k.moveAll(ctx) })
	k.t.told.Store(k.told.Losses)
	for {
		now := ToldDisks{Losses: k.t.store.Losses()}
		now.Disks = k.t.Disks()
		var again <-chan time.Time
		if lost := now.Losses != k.told.Losses; lost || usable(now.Disks) != usable(k.told.Disks) {
			if err := k.t.members.Update(ctx, now.Disks, lost); err == nil {
				k.told = now
				k.t.told.Store(now.Losses)
			} else {
				k.t.log.WarnContext(ctx, "the cluster could not be told yet that disks have changed", "error", err)
				again = time.After(updatePause)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.changed:
		case <-again:
		}
	}
}

const updatePause = time.Second

// awaitTold waits until the map shows what the node has lost. Before that, what a disk had must not be taken for what
// never was.
func (k *DiskKeeper) awaitTold(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, toldPatience)
	defer cancel()
	k.Changed()
	for k.t.told.Load() != k.t.store.Losses() {
		select {
		case <-ctx.Done():
			return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
				"the cluster does not know yet that the disk is out of use: nothing was changed; try again")
		case <-time.After(toldPoll):
		}
	}
	return nil
}

const (
	toldPatience = 10 * time.Second
	toldPoll     = 10 * time.Millisecond
)

// usable names the disks and says which are in use: that they are full or not is of no interest to the map.
func usable(disks []api.Disk) string {
	var b strings.Builder
	for _, d := range disks {
		fmt.Fprintln(&b, d.ID, d.Path, d.Out())
	}
	return b.String()
}

// moveAll empties disks that are to leave, one after the other.
func (k *DiskKeeper) moveAll(ctx context.Context) {
	for {
		for _, d := range k.t.Disks() {
			if d.State == api.DiskLeaving {
				k.move(ctx, d.ID)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-k.leaving:
		}
	}
}

func (k *DiskKeeper) move(ctx context.Context, id string) {
	report := func(m store.DiskMove) {
		k.moves.Store(id, &api.DiskMove{Total: m.Total, Moved: m.Moved, Bytes: m.Bytes, Failed: m.Failed, Detail: m.Detail})
	}
	err := k.t.store.EmptyDisk(ctx, id, report)
	if err == nil {
		err = k.forget(id)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	k.t.log.ErrorContext(ctx, "a disk can't leave yet", "disk", id, "error", err)
	var m api.DiskMove
	if last, ok := k.moves.Load(id); ok {
		m = *last.(*api.DiskMove) //nolint:forcetypeassert // the map's own
	}
	m.Detail = err.Error()
	k.moves.Store(id, &m)
}

// forget takes a disk out of the table.
func (k *DiskKeeper) forget(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.Changed()
	k.moves.Delete(id)
	return k.save(slices.DeleteFunc(slices.Clone(k.disks), func(d store.Disk) bool { return d.ID == id }))
}

// save keeps the list; the caller holds mu.
func (k *DiskKeeper) save(disks []store.Disk) error {
	if err := k.table.Save(disks); err != nil {
		return err
	}
	k.disks = disks
	return nil
}

// saveState keeps how a disk is to be opened; the caller holds mu.
func (k *DiskKeeper) saveState(id, state string) error {
	disks := slices.Clone(k.disks)
	for i := range disks {
		if disks[i].ID == id {
			disks[i].State = state
		}
	}
	return k.save(disks)
}

func (k *DiskKeeper) find(id string) (api.Disk, error) {
	for _, d := range k.all() {
		if d.ID == id {
			return d, nil
		}
	}
	return api.Disk{}, fmt.Errorf("disk %s: %w", id, store.ErrNoDisk)
}

func (k *DiskKeeper) all() []api.Disk {
	disks := Disks(k.t.store)
	for i := range disks {
		if m, ok := k.moves.Load(disks[i].ID); ok && disks[i].State == api.DiskLeaving {
			disks[i].Move = m.(*api.DiskMove) //nolint:forcetypeassert // the map's own
		}
	}
	return disks
}

func (k *DiskKeeper) list(r *Request) error {
	return r.WriteJSON(http.StatusOK, api.DiskList{Disks: k.all()})
}

func (k *DiskKeeper) show(r *Request) error { return k.answer(r, http.StatusOK, r.Param("disk")) }

func (k *DiskKeeper) answer(r *Request, status int, id string) error {
	d, err := k.find(id)
	if err != nil {
		return err
	}
	return r.WriteJSON(status, d)
}

const maxDiskDocument = 64 << 10

func (k *DiskKeeper) add(r *Request) error {
	var in api.NewDisk
	if err := r.JSON(maxDiskDocument, &in); err != nil {
		return err
	}
	if !filepath.IsAbs(in.Path) {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "path %q: give the absolute path of a directory of the target's machine", in.Path)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d := store.Disk{ID: in.ID, Path: filepath.Clean(in.Path)}
	if d.ID == "" {
		d.ID = k.newID(d.Path)
	}
	if !ValidDiskID(d.ID) {
		return api.Errorf(http.StatusBadRequest, api.CodeBadName, "disk id %q: 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-' are allowed", d.ID)
	}
	if err := k.t.store.AddDisk(d); err != nil {
		return refused(err)
	}
	d.Known = true
	if err := k.save(append(slices.Clone(k.disks), d)); err != nil {
		return err
	}
	k.Changed()
	k.t.log.InfoContext(r.Context(), "a disk was added", "disk", d.ID, "path", d.Path)
	return k.answer(r, http.StatusCreated, d.ID)
}

// refused makes an error of opening a disk one for whoever asked for it: what is wrong with the directory is theirs to see.
func refused(err error) error {
	if e := AsError(err); e.Code != api.CodeInternal {
		return e
	}
	return api.Errorf(http.StatusConflict, api.CodeRefused, "%v", err)
}

// newID names a disk after its directory.
func (k *DiskKeeper) newID(path string) string {
	base := filepath.Base(path)
	taken := func(id string) bool {
		return !ValidDiskID(id) || slices.ContainsFunc(k.disks, func(d store.Disk) bool { return d.ID == id })
	}
	id := base
	for n := 2; taken(id); n++ {
		if id = fmt.Sprintf("%s-%d", base, n); !ValidDiskID(id) {
			base = "disk"
		}
	}
	return id
}

// ValidDiskID says whether a disk may have this id.
func ValidDiskID(id string) bool {
	for i := range len(id) {
		c := id[i]
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return id != "" && len(id) <= 64
}

func (k *DiskKeeper) patch(r *Request) error {
	var in api.DiskChange
	if err := r.JSON(maxDiskDocument, &in); err != nil {
		return err
	}
	id := r.Param("disk")
	k.mu.Lock()
	defer k.mu.Unlock()
	d, err := k.find(id)
	if err != nil {
		return err
	}
	switch in.State {
	case api.DiskDisabled:
		if d.State == api.DiskLeaving {
			return fmt.Errorf("disk %s is leaving; enable it first: %w", id, store.ErrDiskInUse)
		}
		if err = k.saveState(id, store.DiskDisabled); err == nil {
			err = k.t.store.DisableDisk(id)
		}
	case api.StateOK:
		if in.Anew && d.Out() {
			if err := k.awaitTold(r.Context()); err != nil {
				return err
			}
		}
		if err = k.t.store.EnableDisk(id, in.Anew); err != nil {
			return refused(err)
		}
		err = k.saveState(id, "")
	default:
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "state %q: a disk can be made %s or %s", in.State, api.StateOK, api.DiskDisabled)
	}
	if err != nil {
		return err
	}
	k.Changed()
	k.t.log.InfoContext(r.Context(), "a disk was changed by hand", "disk", id, "state", in.State, "anew", in.Anew)
	return k.answer(r, http.StatusOK, id)
}

// remove begins to move a disk's objects to the others. With force, or where nothing can be read from it any more, it
// forgets the disk with what only it has; of a disk that is out of use that needs to be said, too.
func (k *DiskKeeper) remove(r *Request) error {
	force, err := r.flag("force")
	if err != nil {
		return err
	}
	id := r.Param("disk")
	d, err := k.find(id)
	if err != nil {
		return err
	}
	if !force {
		if d.Out() {
			return fmt.Errorf("disk %s is %s (%s): its objects can't be moved. Those that have copies on other targets are made anew; "+
				"those that only this disk has are lost for good with --force: %w", id, d.State, d.Reason, store.ErrDiskInUse)
		}
		return k.beginMove(r, id)
	}
	if !d.Out() {
		if err := k.t.store.DisableDisk(id); err != nil {
			return err
		}
	}
	if err := k.awaitTold(r.Context()); err != nil {
		return err
	}
	if err := k.t.store.ForgetDisk(id); err != nil {
		return err
	}
	k.t.log.WarnContext(r.Context(), "a disk was removed by force, with what only it had", "disk", id)
	if err := k.forget(id); err != nil {
		return err
	}
	r.SetStatusCode(http.StatusAccepted)
	return nil
}

func (k *DiskKeeper) beginMove(r *Request, id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.t.store.BeginLeaving(id); err != nil {
		return err
	}
	if err := k.saveState(id, store.DiskLeaving); err != nil {
		return err
	}
	k.moves.Delete(id)
	select {
	case k.leaving <- id:
	default: // it looks at all of them anyway
	}
	r.SetStatusCode(http.StatusAccepted)
	return nil
}
