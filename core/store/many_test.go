package store_test

import (
	"bytes"
	"flag"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/core/store"
)

var manyNames = flag.Int("names", 4_000, "objects of TestManyNames")

// TestManyNames lists many objects in pages, loses the index, and has it made anew from the data files: the two agree,
// and fsck proves it.
func TestManyNames(t *testing.T) {
	n := *manyNames
	m := newMachine(t)
	s, err := store.Open(m.options())
	require.NoError(t, err)
	want := store.Report{}
	start := time.Now()
	var g errgroup.Group
	const writers = 8
	for w := range writers {
		g.Go(func() error {
			for i := w; i < n; i += writers {
				if err := putOneOfMany(s, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	for i := range n {
		switch i % 16 {
		case 13:
			want.Stubs++
		case 14:
			want.Slices++
		case 15:
			want.Tombstones++
			continue
		}
		want.Objects++
	}
	t.Logf("%d names put in %v", n, time.Since(start))
	before := listMany(t, s)
	require.EqualValues(t, want.Objects, len(before))
	fsckMany(t, s, want)

	left := m.crash()
	_ = s.Close() // of a machine that is off
	m.restore(image{left.kept, nil})
	start = time.Now()
	s, err = store.Open(m.options())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	t.Logf("opened without an index in %v", time.Since(start))
	require.True(t, slices.EqualFunc(before, listMany(t, s), func(a, b store.Info) bool { return reflect.DeepEqual(a, b) }))
	want.Tombstones = 0
	fsckMany(t, s, want)
	require.EqualValues(t, m.files(), want.Objects+want.Slices)
}

// putOneOfMany puts an object, and to some does more.
func putOneOfMany(s *store.Store, i int) error {
	name := fmt.Sprintf("train/%03d/shard-%06d.bin", i%100, i)
	o := store.PutOptions{Size: -1, Version: v(1), Created: created, ContentType: "application/octet-stream", Data: 4, Parity: 2}
	if i%3 == 0 { // an older version was there
		if _, err := s.Put(ctx, "b", name, strings.NewReader("old"), store.PutOptions{Size: 3, Version: 1}); err != nil {
			return err
		}
	}
	if _, err := s.Put(ctx, "b", name, bytes.NewReader(bodyOf(name, 0)), o); err != nil {
		return err
	}
	switch i % 16 {
	case 13:
		return s.Evict(ctx, "b", name, v(1))
	case 14:
		_, err := s.PutSlice(ctx, store.SliceKey{Bucket: "b", Name: name, Version: v(1)}, strings.NewReader(name), o)
		return err
	case 15:
		return s.Bury(ctx, "b", name, v(2))
	}
	return nil
}

func listMany(t *testing.T, s *store.Store) (out []store.Info) {
	t.Helper()
	start := time.Now()
	for last, more := "", true; more; {
		var infos []store.Info
		var err error
		infos, more, err = s.List("b", "", last, 0)
		require.NoError(t, err)
		out = append(out, infos...)
		last = infos[len(infos)-1].Name
	}
	t.Logf("listed %d in pages of 1000: %.0f a second", len(out), float64(len(out))/time.Since(start).Seconds())
	for i := range out {
		out[i].Disk = ""
		if i > 0 {
			require.Less(t, out[i-1].Name, out[i].Name)
		}
	}
	return out
}

func fsckMany(t *testing.T, s *store.Store, want store.Report) {
	t.Helper()
	start := time.Now()
	report, err := s.Fsck(ctx)
	require.NoError(t, err)
	require.Equal(t, want, report)
	t.Logf("fsck in %v", time.Since(start))
}
