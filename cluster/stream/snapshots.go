package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/sampler"
)

const (
	keepInMemory = 16        // snapshots,
	keepBytes    = 512 << 20 // and no more than this of them but one
	idLength     = 64        // hex SHA-256
	inOneFile    = 256 << 10 // a snapshot up to this size is one file; of a larger one each page is

	// InOnePiece is the size up to which a snapshot travels whole; of a larger one, first the root does
	// and then those pages that the receiver lacks.
	InOnePiece = 16 << 20
)

// Snapshots keeps the snapshots that streams name. They and their pages are named by their content, so
// a copy is as good as any other: what is lost or was never here is fetched from a peer, and what two
// snapshots have in common is there once.
type Snapshots struct {
	// FetchPages asks the peers for pages of a snapshot and gives take those it gets, from any goroutine.
	// Whoever makes a Snapshots sets it before its first use; without it, pages come with their root only.
	FetchPages func(ctx context.Context, id string, pages []sampler.PageID, take func(*sampler.Page)) error

	dir   string
	fetch func(ctx context.Context, id string) ([]byte, error)
	pages pageStore
	loads singleflight.Group

	mu     sync.Mutex
	memory map[string]*sampler.Snapshot
	recent []string // keys of memory, least recently used first
	bytes  int64    // of memory
}

// NewSnapshots keeps snapshots under dir; fetch asks the peers for one, as a pack: its root, and all or
// some of its pages.
func NewSnapshots(dir string, fetch func(ctx context.Context, id string) ([]byte, error)) (*Snapshots, error) {
	s := &Snapshots{dir: dir, fetch: fetch, memory: make(map[string]*sampler.Snapshot)}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the snapshot directory: %w", err)
	}
	if err := s.pages.open(filepath.Join(dir, "pages")); err != nil {
		return nil, err
	}
	return s, removeUnfinished(dir)
}

// validID keeps ids from becoming paths.
func validID(id string) bool {
	if len(id) != idLength {
		return false
	}
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func badID(id string) error {
	return api.Errorf(400, api.CodeBadRequest, "%.80q is not a snapshot id", id)
}

// Put stores a snapshot from a pack of its root and those of its pages that are not here, after checking
// that the content has that id.
func (s *Snapshots) Put(id string, pack []byte) error {
	return s.put(context.Background(), id, pack, false)
}

// Pull is Put that asks the peers for the pages that are neither here nor in the pack.
func (s *Snapshots) Pull(ctx context.Context, id string, pack []byte) error {
	return s.put(ctx, id, pack, true)
}

func (s *Snapshots) put(ctx context.Context, id string, pack []byte, ask bool) error {
	if !validID(id) {
		return badID(id)
	}
	snap, err := s.assemble(ctx, id, pack, ask)
	if err != nil {
		return err
	}
	s.remember(id, snap)
	return s.write(id, snap)
}

// Get returns a snapshot from memory, disk or a peer. Who asks for the same at a time waits for one answer.
func (s *Snapshots) Get(ctx context.Context, id string) (*sampler.Snapshot, error) {
	if snap := s.recall(id); snap != nil {
		s.touch(id)
		return snap, nil
	}
	if !validID(id) {
		return nil, badID(id)
	}
	answer := s.loads.DoChan(id, func() (any, error) {
		// One caller that gives up must not take the others' answer away.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		return s.load(ctx, id)
	})
	select {
	case r := <-answer:
		snap, _ := r.Val.(*sampler.Snapshot)
		return snap, r.Err
	case <-ctx.Done():
		return nil, api.Errorf(503, api.CodeUnavailable, "snapshot %.12s is still being fetched: %v; ask again", id, ctx.Err())
	}
}

// load finds a snapshot that is not in memory.
func (s *Snapshots) load(ctx context.Context, id string) (*sampler.Snapshot, error) {
	if snap, err := s.read(ctx, id, true); err == nil || !noSnapshot(err) {
		return snap, err
	}
	pack, err := s.fetch(ctx, id)
	if err != nil {
		return nil, err
	}
	snap, err := s.assemble(ctx, id, pack, true)
	if err != nil {
		return nil, err
	}
	s.remember(id, snap)
	return snap, s.write(id, snap)
}

// Data returns a snapshot if this node has it, for a peer to take: whole where it is small, else its root.
func (s *Snapshots) Data(id string) ([]byte, error) {
	snap, err := s.local(id)
	if err != nil {
		return nil, err
	}
	pack, _ := Pack(snap, InOnePiece)
	return pack, nil
}

// Has says whether a snapshot is here, whole, and makes it one of those that were used last.
func (s *Snapshots) Has(id string) bool {
	_, err := s.local(id)
	return err == nil
}

// local finds a snapshot on this node.
func (s *Snapshots) local(id string) (*sampler.Snapshot, error) {
	if snap := s.recall(id); snap != nil {
		s.touch(id)
		return snap, nil
	}
	v, err, _ := s.loads.Do("local "+id, func() (any, error) { return s.read(context.Background(), id, false) })
	snap, _ := v.(*sampler.Snapshot)
	return snap, err
}

// PutPages stores a pack of pages, of any snapshots.
func (s *Snapshots) PutPages(pack []byte) error {
	for len(pack) > 0 {
		part, rest, err := sampler.CutPart(pack)
		if err != nil {
			return api.Errorf(400, api.CodeBadRequest, "%v", err)
		}
		page, err := sampler.ParsePage(part)
		if err != nil {
			return api.Errorf(400, api.CodeBadRequest, "%v", err)
		}
		if err := s.pages.put(page); err != nil {
			return err
		}
		pack = rest
	}
	return s.prune()
}

// Pages packs those of the pages that are here.
func (s *Snapshots) Pages(ids []sampler.PageID) []byte {
	var pack []byte
	for _, id := range ids {
		if page := s.pages.get(id); page != nil {
			pack = sampler.AppendPart(pack, page.Data())
		}
	}
	return pack
}

// Pack is a snapshot as it travels: whole where it has at most so many bytes, else its root.
func Pack(snap *sampler.Snapshot, most int64) (pack []byte, whole bool) {
	pack = sampler.AppendPart(nil, snap.Root().Data())
	if packed(snap) > most {
		return pack, false
	}
	for _, p := range snap.Pages() {
		pack = sampler.AppendPart(pack, p.Data())
	}
	return pack, true
}

// packed is about the size of a snapshot in one piece.
func packed(snap *sampler.Snapshot) int64 {
	size := int64(len(snap.Root().Data()))
	for _, p := range snap.Root().Pages() {
		size += int64(p.Bytes)
	}
	return size
}

// read takes a snapshot from the disk. One that is damaged or has lost pages for good is removed: it is
// as good as absent, to this node and to peers that ask for it.
func (s *Snapshots) read(ctx context.Context, id string, ask bool) (*sampler.Snapshot, error) {
	if !validID(id) {
		return nil, badID(id)
	}
	path := filepath.Join(s.dir, id)
	pack, err := os.ReadFile(path)
	if err == nil {
		snap, damage := s.assemble(ctx, id, pack, ask)
		if damage == nil {
			s.touch(id)
			s.remember(id, snap)
			return snap, nil
		}
		if ctx.Err() != nil {
			return nil, damage
		}
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read snapshot %.12s: %w", id, err)
	}
	return nil, api.Errorf(404, api.CodeNoSnapshot, "no snapshot %.12s; open the stream again", id)
}

func noSnapshot(err error) bool {
	var ae *api.Error
	return errors.As(err, &ae) && ae.Code == api.CodeNoSnapshot
}

// assemble makes a snapshot of its root, the first part of the pack, and its pages: those in the pack,
// those that are here, and, if ask is set, those that the peers have.
func (s *Snapshots) assemble(ctx context.Context, id string, pack []byte, ask bool) (*sampler.Snapshot, error) {
	bad := func(err error) error { return api.Errorf(400, api.CodeBadRequest, "snapshot %.12s: %v", id, err) }
	part, rest, err := sampler.CutPart(pack)
	if err != nil {
		return nil, bad(err)
	}
	root, err := sampler.ParseRoot(part)
	if err != nil {
		return nil, bad(err)
	}
	if got := root.ID(); got != id {
		return nil, api.Errorf(400, api.CodeBadRequest, "the content of snapshot %.12s has the id %.12s", id, got)
	}
	g := gathering{want: make(map[sampler.PageID]*sampler.Page, len(root.Pages()))}
	for _, p := range root.Pages() {
		g.want[p.ID] = nil
	}
	for len(rest) > 0 {
		if part, rest, err = sampler.CutPart(rest); err != nil {
			return nil, bad(err)
		}
		page, err := sampler.ParsePage(slices.Clone(part)) // the pack is not to live as long as one of its pages
		if err != nil {
			return nil, bad(err)
		}
		g.take(page)
	}
	if err := s.gather(ctx, id, &g, ask); err != nil {
		return nil, err
	}
	pages := make([]*sampler.Page, len(root.Pages()))
	for i, p := range root.Pages() {
		pages[i] = s.pages.share(g.want[p.ID])
	}
	snap, err := sampler.Assemble(root, pages)
	if err != nil {
		return nil, bad(err)
	}
	return snap, nil
}

// gathering is the pages of a snapshot on their way together; nil stands for one that is missing.
type gathering struct {
	mu   sync.Mutex
	want map[sampler.PageID]*sampler.Page
}

// take accepts a page that is wanted.
func (g *gathering) take(p *sampler.Page) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if have, ok := g.want[p.ID()]; ok && have == nil {
		g.want[p.ID()] = p
	}
}

func (g *gathering) missing() []sampler.PageID {
	g.mu.Lock()
	defer g.mu.Unlock()
	var ids []sampler.PageID
	for id, p := range g.want {
		if p == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// gather finds the pages that are missing, here and then at the peers.
func (s *Snapshots) gather(ctx context.Context, id string, g *gathering, ask bool) error {
	var local errgroup.Group
	local.SetLimit(runtime.GOMAXPROCS(0))
	for _, page := range g.missing() {
		local.Go(func() error {
			if p := s.pages.get(page); p != nil {
				g.take(p)
			}
			return nil
		})
	}
	_ = local.Wait() // what was not found is still missing
	missing := g.missing()
	if len(missing) == 0 {
		return nil
	}
	var err error
	if ask && s.FetchPages != nil {
		err = s.FetchPages(ctx, id, missing, func(p *sampler.Page) {
			g.take(p)
			_ = s.pages.put(p) // a disk that is full is no reason not to read from it: memory serves
		})
		missing = g.missing()
	}
	if len(missing) > 0 {
		detail := "send them with it, or to a target"
		if err != nil {
			detail = err.Error()
		}
		return api.Errorf(409, api.CodeMissingPages, "snapshot %.12s lacks %d of its %d pages: %s", id, len(missing), len(g.want), detail)
	}
	return nil
}

// recall finds a snapshot in memory.
func (s *Snapshots) recall(id string) *sampler.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.memory[id]
	if snap != nil {
		i := slices.Index(s.recent, id)
		s.recent = append(slices.Delete(s.recent, i, i+1), id)
	}
	return snap
}

func (s *Snapshots) remember(id string, snap *sampler.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.memory[id] != nil {
		return
	}
	s.memory[id] = snap
	s.recent = append(s.recent, id)
	s.bytes += packed(snap)
	for len(s.recent) > keepInMemory || s.bytes > keepBytes && len(s.recent) > 1 {
		s.bytes -= packed(s.memory[s.recent[0]])
		delete(s.memory, s.recent[0])
		s.recent = s.recent[1:]
	}
}
