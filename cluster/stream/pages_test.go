package stream_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/sampler"
)

// paged is a snapshot of n pages: no two of its shards fit into one. From some thousand on it is kept page
// by page.
func paged(t *testing.T, n int, version uint64) *sampler.Snapshot {
	t.Helper()
	var b sampler.Builder
	for i := range n {
		require.NoError(t, b.Add(sampler.Shard{Name: fmt.Sprintf("b/%06d.tar", i), Version: version, Samples: 1 << 32}))
	}
	snap, err := b.Snapshot()
	require.NoError(t, err)
	require.Len(t, snap.Pages(), n)
	return snap
}

const manyPages = 5000

// rootOf is a pack without pages.
func rootOf(snap *sampler.Snapshot) []byte { return sampler.AppendPart(nil, snap.Root().Data()) }

func pagesOf(pages []*sampler.Page) []byte {
	var pack []byte
	for _, p := range pages {
		pack = sampler.AppendPart(pack, p.Data())
	}
	return pack
}

func TestPagesComeBeforeTheirRoot(t *testing.T) {
	dir, snap := t.TempDir(), paged(t, manyPages, 1)
	s := keep(t, dir, &peers{})
	requireCode(t, api.CodeMissingPages, s.Put(snap.ID(), rootOf(snap)))
	require.NoError(t, s.PutPages(pagesOf(snap.Pages()[:manyPages-1])))
	requireCode(t, api.CodeMissingPages, s.Put(snap.ID(), rootOf(snap)))
	require.False(t, s.Has(snap.ID()))
	require.NoError(t, s.Put(snap.ID(), append(rootOf(snap), pagesOf(snap.Pages()[manyPages-1:])...)))
	require.True(t, s.Has(snap.ID()))

	again := keep(t, dir, &peers{}) // as after a restart
	require.True(t, again.Has(snap.ID()))
	got, err := again.Get(t.Context(), snap.ID())
	require.NoError(t, err)
	require.Equal(t, snap.ID(), got.ID())
	require.Equal(t, snap.Shard(4321), got.Shard(4321))
}

func TestPackOfNonsense(t *testing.T) {
	s, snap := keep(t, t.TempDir(), &peers{}), paged(t, 3, 1)
	pack := pagesOf(snap.Pages())
	for name, bad := range map[string][]byte{"cut": pack[:len(pack)-1], "flipped": append([]byte{pack[0] ^ 1}, pack[1:]...), "root": rootOf(snap)} {
		requireCode(t, api.CodeBadRequest, s.PutPages(bad))
		requireCode(t, api.CodeBadRequest, s.Put(snap.ID(), append(rootOf(snap), bad...)))
		require.False(t, s.Has(snap.ID()), name)
	}
}

func TestSnapshotsShareTheirPages(t *testing.T) {
	dir := t.TempDir()
	s, one := keep(t, dir, &peers{}), paged(t, manyPages, 1)
	whole, err := one.MarshalBinary()
	require.NoError(t, err)
	require.NoError(t, s.Put(one.ID(), whole))
	before := len(filesIn(t, dir))

	var b sampler.Builder
	for i := range manyPages {
		sh := one.Shard(i)
		if i == 1234 {
			sh.Version++
		}
		require.NoError(t, b.Add(sh))
	}
	two, err := b.Snapshot()
	require.NoError(t, err)
	require.NoError(t, s.Put(two.ID(), append(rootOf(two), pagesOf(two.Pages()[1234:1235])...)))
	require.Len(t, filesIn(t, dir), before+2, "a page and a root")

	first, err := s.Get(t.Context(), one.ID())
	require.NoError(t, err)
	second, err := s.Get(t.Context(), two.ID())
	require.NoError(t, err)
	for i := range manyPages {
		require.Equal(t, i != 1234, first.Pages()[i] == second.Pages()[i], "page %d is in memory once", i)
	}
}

// fetcher has pages, and counts what is asked of it.
type fetcher struct {
	mu    sync.Mutex
	have  map[sampler.PageID]*sampler.Page
	asked map[sampler.PageID]int
}

func fetcherOf(pages []*sampler.Page) *fetcher {
	f := &fetcher{have: make(map[sampler.PageID]*sampler.Page), asked: make(map[sampler.PageID]int)}
	for _, p := range pages {
		f.have[p.ID()] = p
	}
	return f
}

func (f *fetcher) fetch(_ context.Context, _ string, ids []sampler.PageID, take func(*sampler.Page)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		f.asked[id]++
		if p := f.have[id]; p != nil {
			take(p)
		}
	}
	return nil
}

func TestMissingPagesAreFetched(t *testing.T) {
	dir, snap := t.TempDir(), paged(t, manyPages, 1)
	s, f := keep(t, dir, &peers{}), fetcherOf(snap.Pages())
	s.FetchPages = f.fetch
	require.NoError(t, s.PutPages(pagesOf(snap.Pages()[:1000])))
	require.NoError(t, s.Pull(t.Context(), snap.ID(), rootOf(snap)))
	require.Len(t, f.asked, manyPages-1000)

	// A disk that lost and damaged some.
	for i, p := range snap.Pages()[:20] {
		path := filepath.Join(dir, "pages", p.ID().String())
		if i%2 == 0 {
			require.NoError(t, os.Remove(path))
		} else {
			require.NoError(t, os.WriteFile(path, p.Data()[:len(p.Data())-1], 0o600))
		}
	}
	again, f := keep(t, dir, &peers{}), fetcherOf(snap.Pages())
	again.FetchPages = f.fetch
	_, err := again.Get(t.Context(), snap.ID())
	require.NoError(t, err)
	require.Len(t, f.asked, 20)
	require.True(t, keep(t, dir, &peers{}).Has(snap.ID()), "they are on the disk again")

	lost, f := keep(t, t.TempDir(), &peers{}), fetcherOf(snap.Pages()[1:])
	lost.FetchPages = f.fetch
	err = lost.Pull(t.Context(), snap.ID(), rootOf(snap))
	requireCode(t, api.CodeMissingPages, err)
	require.ErrorContains(t, err, "lacks 1 of its 5000 pages")
}

// Thousands of streams of one job open at a time, each naming the same snapshot.
func TestManyWhoAskAtOnceFetchOnce(t *testing.T) {
	snap := paged(t, 100, 1)
	var asked atomic.Int64
	release := make(chan struct{})
	s, err := stream.NewSnapshots(t.TempDir(), func(context.Context, string) ([]byte, error) {
		asked.Add(1)
		<-release
		return rootOf(snap), nil
	})
	require.NoError(t, err)
	f := fetcherOf(snap.Pages())
	s.FetchPages = f.fetch
	gone, giveUp := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			ctx := t.Context()
			if i%2 == 0 {
				ctx = gone
			}
			got, err := s.Get(ctx, snap.ID())
			if i%2 == 0 {
				requireCodeOf(t, api.CodeUnavailable, err)
				return
			}
			if err != nil || got.ID() != snap.ID() {
				t.Errorf("%v", err)
			}
		})
	}
	require.Eventually(t, func() bool { return asked.Load() == 1 }, 10*time.Second, time.Millisecond)
	giveUp() // whoever leaves must not take it from the others
	close(release)
	group.Wait()
	require.LessOrEqual(t, asked.Load(), int64(2), "those who came after the first had ended find it in memory")
	for _, n := range f.asked {
		require.LessOrEqual(t, n, 2)
	}
}

// requireCodeOf is for goroutines; who was quick enough has no error.
func requireCodeOf(t *testing.T, code string, err error) {
	t.Helper()
	if ae, ok := err.(*api.Error); err != nil && (!ok || ae.Code != code) { //nolint:errorlint // as it is returned
		t.Errorf("%v", err)
	}
}

func TestPagesOfNoSnapshotAreSwept(t *testing.T) {
	dir := t.TempDir()
	s, kept, dropped := keep(t, dir, &peers{}), paged(t, manyPages, 1), paged(t, 500, 2)
	whole, err := kept.MarshalBinary()
	require.NoError(t, err)
	require.NoError(t, s.PutPages(pagesOf(dropped.Pages()[:400])))
	old := time.Now().Add(-2 * time.Hour)
	for _, p := range dropped.Pages()[:400] {
		require.NoError(t, os.Chtimes(filepath.Join(dir, "pages", p.ID().String()), old, old))
	}
	require.NoError(t, s.PutPages(pagesOf(dropped.Pages()[400:])))
	require.NoError(t, s.Put(kept.ID(), whole))
	require.Len(t, filesIn(t, filepath.Join(dir, "pages")), manyPages+100, "those that came lately may have a root to come")
	require.True(t, keep(t, dir, &peers{}).Has(kept.ID()))
}

func TestUnfinishedFilesAreRemoved(t *testing.T) {
	dir := t.TempDir()
	keep(t, dir, &peers{})
	for _, path := range []string{filepath.Join(dir, "new-1"), filepath.Join(dir, "pages", "new-2")} {
		require.NoError(t, os.WriteFile(path, []byte("half"), 0o600))
	}
	keep(t, dir, &peers{})
	require.Empty(t, filesIn(t, dir))
}
