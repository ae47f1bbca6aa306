package stream_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/sampler"
)

// snapshot makes the i-th of many.
func snapshot(t *testing.T, i int) (id string, data []byte) {
	t.Helper()
	s, err := sampler.NewSnapshot([]sampler.Shard{{Name: "b/x.tar", Version: uint64(i), Samples: 10}})
	require.NoError(t, err)
	data, err = s.MarshalBinary()
	require.NoError(t, err)
	return s.ID(), data
}

// peers counts what is asked of them, and give what they have.
type peers struct {
	asked int
	have  map[string][]byte
}

func (p *peers) fetch(_ context.Context, id string) ([]byte, error) {
	p.asked++
	if data, ok := p.have[id]; ok {
		return data, nil
	}
	return nil, api.Errorf(404, api.CodeNoSnapshot, "nobody has %.12s", id)
}

func keep(t *testing.T, dir string, p *peers) *stream.Snapshots {
	t.Helper()
	s, err := stream.NewSnapshots(dir, p.fetch)
	require.NoError(t, err)
	return s
}

// filesIn lists the files below a directory.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	}))
	return files
}

func requireCode(t *testing.T, code string, err error) {
	t.Helper()
	var ae *api.Error
	require.ErrorAs(t, err, &ae)
	require.Equal(t, code, ae.Code)
}

func TestSnapshotIDsAreNoPaths(t *testing.T) {
	dir, p := t.TempDir(), &peers{}
	s := keep(t, dir, p)
	good, data := snapshot(t, 1)
	other, _ := snapshot(t, 2)
	for name, id := range map[string]string{
		"empty": "", "short": good[:63], "long": good + "0", "upper": strings.ToUpper(good),
		"up": "../" + good[:61], "slash": "/" + good[:63], "NUL": "\x00" + good[:63],
	} {
		t.Run(name, func(t *testing.T) {
			requireCode(t, api.CodeBadRequest, s.Put(id, data))
			_, err := s.Data(id)
			requireCode(t, api.CodeBadRequest, err)
			_, err = s.Get(t.Context(), id)
			requireCode(t, api.CodeBadRequest, err)
		})
	}
	requireCode(t, api.CodeBadRequest, s.Put(other, data))
	requireCode(t, api.CodeBadRequest, s.Put(good, data[:len(data)-1]))
	require.Zero(t, p.asked)
	require.Empty(t, filesIn(t, dir))
}

func TestDamagedSnapshotIsFetchedAgain(t *testing.T) {
	id, data := snapshot(t, 1)
	for name, damage := range map[string][]byte{"empty": {}, "cut": data[:20], "flipped": append([]byte{'X'}, data[1:]...)} {
		t.Run(name, func(t *testing.T) {
			dir, p := t.TempDir(), &peers{}
			require.NoError(t, keep(t, dir, p).Put(id, data))
			require.NoError(t, os.WriteFile(filepath.Join(dir, id), damage, 0o600))

			s := keep(t, dir, p) // as after a restart
			_, err := s.Data(id)
			requireCode(t, api.CodeNoSnapshot, err)
			_, err = s.Get(t.Context(), id)
			requireCode(t, api.CodeNoSnapshot, err)
			p.have = map[string][]byte{id: data}
			snap, err := s.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, id, snap.ID())
			require.Equal(t, 2, p.asked)

			again, err := keep(t, dir, &peers{}).Data(id)
			require.NoError(t, err, "it is on the disk again")
			require.Equal(t, data, again)
		})
	}
}

func TestSnapshotsInUseAreKept(t *testing.T) {
	dir, p := t.TempDir(), &peers{}
	s := keep(t, dir, p)
	used, data := snapshot(t, 0)
	unused, more := snapshot(t, 1)
	require.NoError(t, s.Put(used, data))
	require.NoError(t, s.Put(unused, more))
	old := time.Now().Add(-time.Hour)
	for _, id := range []string{used, unused} {
		require.NoError(t, os.Chtimes(filepath.Join(dir, id), old, old))
	}
	_, err := s.Get(t.Context(), used)
	require.NoError(t, err)
	for i := range 300 {
		id, data := snapshot(t, 2+i)
		require.NoError(t, s.Put(id, data), fmt.Sprint(i))
		if i%10 == 0 {
			_, err := s.Get(t.Context(), used)
			require.NoError(t, err)
		}
	}
	require.Len(t, filesIn(t, dir), 256)

	s = keep(t, dir, p)
	_, err = s.Get(t.Context(), used)
	require.NoError(t, err)
	_, err = s.Get(t.Context(), unused)
	requireCode(t, api.CodeNoSnapshot, err)
}
