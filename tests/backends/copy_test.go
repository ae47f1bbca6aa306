package backends

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/transfer"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/schemes"
	"github.com/shardstream/shardstream/tests/backends/faultproxy"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

// copies is a bucket of a server that `cp` and `sync` copy from and to.
type copies struct {
	*serverstest.Bucket
	url    string
	opener *transfer.Opener
}

func newCopies(t *testing.T, kind string) *copies {
	t.Helper()
	if kind != backend.Remote && schemes.All()[kind] == nil {
		t.Skipf("this build has no %s backends", kind)
	}
	c := &copies{Bucket: serverstest.Get(t, kind).Bucket(t)}
	if kind == backend.Remote {
		c.url = c.Server.URLAt(c.Server.ProxyAddr(), c.Name)
	} else {
		c.url = strings.TrimSuffix(c.Server.Config(t, c.Name, "").Address.String(), "/")
	}
	c.opener = &transfer.Opener{
		Cluster: func(at string) (*api.Client, error) { return api.NewClient(api.Options{Endpoint: "http://" + at}) },
		Backends: func(ctx context.Context, config backend.Config) (backend.Backend, error) {
			known := c.Server.Config(t, c.Name, "")
			config.Endpoint, config.Region, config.Credentials = known.Endpoint, known.Region, known.Credentials
			b, err := schemes.All().Open(ctx, config)
			if err != nil {
				return nil, err
			}
			policy := impatient
			policy.Backend = config.Address.String()
			return backend.WithRetries(b, policy), nil
		},
	}
	return c
}

func (c *copies) cp(t *testing.T, from, to string) (transfer.Totals, string) {
	t.Helper()
	sources, err := c.opener.Source(t.Context(), from, transfer.Access{})
	require.NoError(t, err)
	target, err := c.opener.Target(t.Context(), to, transfer.Single(sources), transfer.Access{})
	require.NoError(t, err)
	seen := &failures{}
	totals, err := transfer.Copy(t.Context(), sources, target, transfer.Options{Jobs: 4, Observer: seen})
	require.NoError(t, err)
	require.NoError(t, target.Side.Close())
	for _, s := range sources {
		require.NoError(t, s.Side.Close())
	}
	return totals, seen.text()
}

func (c *copies) sync(t *testing.T, from, to string, remove bool) (transfer.Totals, string) {
	t.Helper()
	source, err := c.opener.Folder(t.Context(), from, true, transfer.Access{})
	require.NoError(t, err)
	defer source.Close()
	target, err := c.opener.Folder(t.Context(), to, false, transfer.Access{})
	require.NoError(t, err)
	seen := &failures{}
	totals, err := transfer.Sync(t.Context(), source, target, transfer.Options{Jobs: 4, Delete: remove, Observer: seen})
	require.NoError(t, err)
	require.NoError(t, target.Close())
	return totals, seen.text()
}

// failures collects why files failed.
type failures struct {
	mu  sync.Mutex
	all []string
}

func (f *failures) Planned(int64) {}
func (f *failures) Listed()       {}
func (f *failures) Moved(int64)   {}
func (f *failures) Done(e transfer.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.Err != nil {
		f.all = append(f.all, e.Err.Error())
	}
}

func (f *failures) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.all, "\n")
}

// tree is what is copied: some small files in folders, and one that vendors take in parts.
func tree() map[string][]byte {
	files := map[string][]byte{"empty": {}, "large.bin": bytesOf(7, 34<<20), "a.b/c d+é": []byte("odd name")}
	for i := range 20 {
		files[fmt.Sprintf("deep/%d/%02d.bin", i%3, i)] = bytesOf(uint64(i), 1000*i+1)
	}
	return files
}

func folderOf(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		at := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o700))
		require.NoError(t, os.WriteFile(at, content, 0o600))
	}
	return dir
}

func requireTree(t *testing.T, want map[string][]byte, dir string) {
	t.Helper()
	got := map[string][]byte{}
	require.NoError(t, filepath.WalkDir(dir, func(at string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, at)
		got[filepath.ToSlash(name)], err = os.ReadFile(at)
		return err
	}))
	require.True(t, maps.EqualFunc(want, got, func(a, b []byte) bool { return string(a) == string(b) }), "%d of %d files", len(got), len(want))
}

// TestCopiesOf holds cp and sync to the same in front of every server that can be written to: a folder goes there and
// comes back, a second run has nothing to do, and what is gone goes.
func TestCopiesOf(t *testing.T) {
	for _, kind := range []string{backend.S3, backend.GCS, backend.Azure, backend.HDFS, backend.Remote} {
		t.Run(kind, func(t *testing.T) {
			c, files := newCopies(t, kind), tree()
			dir, back := folderOf(t, files), t.TempDir()

			totals, failed := c.sync(t, dir, c.url+"/set", false)
			require.Empty(t, failed)
			require.EqualValues(t, len(files), totals.Copied)
			stored, err := c.Get("set/large.bin")
			require.NoError(t, err)
			require.True(t, string(files["large.bin"]) == string(stored))
			totals, failed = c.sync(t, dir, c.url+"/set/", true)
			require.Empty(t, failed)
			require.Equal(t, transfer.Totals{Skipped: int64(len(files))}, totals)

			_, failed = c.cp(t, c.url+"/set/", back)
			require.Empty(t, failed)
			requireTree(t, files, back)
			_, failed = c.cp(t, c.url+"/set/deep/1/*.bin", back+"/some")
			require.Empty(t, failed)
			require.FileExists(t, back+"/some/01.bin")
			require.NoError(t, os.RemoveAll(back+"/some"))
			_, failed = c.cp(t, c.url+"/set/empty", back+"/renamed")
			require.Empty(t, failed)
			require.FileExists(t, back+"/renamed")
			require.NoError(t, os.Remove(back+"/renamed"))

			c.Delete("set/empty")
			delete(files, "empty")
			totals, failed = c.sync(t, c.url+"/set", back, true)
			require.Empty(t, failed)
			require.EqualValues(t, 1, totals.Deleted)
			require.Zero(t, totals.Copied)
			requireTree(t, files, back)
			require.NoError(t, os.Remove(back+"/large.bin"))
			totals, failed = c.sync(t, back, c.url+"/set", true)
			require.Empty(t, failed)
			require.EqualValues(t, 1, totals.Deleted)
			_, err = c.Get("set/large.bin")
			require.Error(t, err)
		})
	}
}

func TestCopiesFromAWebServer(t *testing.T) {
	c, files := newCopies(t, backend.HTTP), tree()
	c.PutAll(files)
	dir := t.TempDir()
	_, failed := c.cp(t, c.url+"/", dir)
	require.Empty(t, failed)
	requireTree(t, files, dir)
	totals, failed := c.sync(t, c.url, dir, true)
	require.Empty(t, failed)
	require.Equal(t, transfer.Totals{Skipped: int64(len(files))}, totals)

	one := t.TempDir()
	_, failed = c.cp(t, c.url+"/a.b/c%20d+%C3%A9", one)
	require.Empty(t, failed)
	_, failed = c.cp(t, c.url+"/deep/{0..1}/0{0..1}.bin", one)
	require.Contains(t, failed, "named, but not there")
	_, failed = c.cp(t, c.url+"/deep/0/0{0..0}.bin", one+"/template/")
	require.Empty(t, failed)
	require.FileExists(t, one+"/template/00.bin")
	require.FileExists(t, one+"/c d+é")

	_, err := c.opener.Target(t.Context(), c.url+"/", false, transfer.Access{})
	require.ErrorContains(t, err, "not to")
}

// TestCopiesBetweenServers goes from each server into a cluster and on to another, without a file in between.
func TestCopiesBetweenServers(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1})
	_, err := cluster.Client.CreateBucket(t.Context(), "all")
	require.NoError(t, err)
	files := tree()
	for _, kind := range []string{backend.S3, backend.GCS, backend.Azure, backend.HDFS, backend.HTTP} {
		t.Run(kind, func(t *testing.T) {
			c := newCopies(t, kind)
			c.opener.Cluster = func(string) (*api.Client, error) { return cluster.Client, nil }
			c.PutAll(files)
			totals, failed := c.cp(t, c.url+"/", "ss://all/"+kind)
			require.Empty(t, failed)
			require.EqualValues(t, len(files), totals.Copied)
			totals, failed = c.sync(t, c.url, "ss://all/"+kind, true)
			require.Empty(t, failed)
			require.Equal(t, transfer.Totals{Skipped: int64(len(files))}, totals)
			if kind != backend.HTTP {
				_, failed = c.cp(t, "ss://all/"+kind+"/", c.url+"/again/")
				require.Empty(t, failed)
				again, err := c.Get("again/large.bin")
				require.NoError(t, err)
				require.True(t, string(files["large.bin"]) == string(again))
			}
		})
	}
}

// TestCopiesThroughFaults: connections that break are taken up again. A byte that was changed on its way ends in the
// failure of that file, and in no file; web servers tell no checksum to see it by.
func TestCopiesThroughFaults(t *testing.T) {
	isLarge := func(r *http.Request) bool {
		return r.Method == http.MethodGet && serverstest.Names(r, "large.bin")
	}
	for _, kind := range []string{backend.S3, backend.GCS, backend.Azure, backend.HTTP} {
		t.Run(kind, func(t *testing.T) {
			c, files := newCopies(t, kind), tree()
			c.PutAll(files)
			dir := t.TempDir()
			c.Server.HTTP.Add(faultproxy.Rule{Times: 3, Match: isLarge, Cut: 5 << 20})
			c.Server.HTTP.Add(faultproxy.Rule{Times: 3, Status: http.StatusServiceUnavailable})
			_, failed := c.cp(t, c.url+"/", dir)
			require.Empty(t, failed)
			requireTree(t, files, dir)
			if kind == backend.HTTP {
				return
			}
			require.NoError(t, os.Remove(dir+"/large.bin"))
			c.Server.HTTP.Add(faultproxy.Rule{Match: isLarge, Flip: 2 << 20})
			totals, failed := c.sync(t, c.url+"/", dir, false)
			require.Contains(t, failed, "corrupt")
			require.EqualValues(t, 1, totals.Failed)
			delete(files, "large.bin")
			requireTree(t, files, dir)
		})
	}
}
