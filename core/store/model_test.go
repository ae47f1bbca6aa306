package store_test

import (
	"bytes"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/store"
)

// TestModel does random things to a store and to a map, and compares.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dirs := []string{tempDir(rt), tempDir(rt)}
		o := options(dirs...)
		o.OpenFiles = rapid.SampledFrom([]int{1, 3, 100}).Draw(rt, "open files")
		s, err := store.Open(o)
		require.NoError(rt, err)
		defer func() { require.NoError(rt, s.Close()) }()
		model := map[string][]byte{}
		versions := map[string]uint64{}
		names := rapid.SampledFrom([]string{"a", "a/b", "a/c", "b", "a-b", "ä", "z/z/z"})
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				name := names.Draw(rt, "name")
				size := rapid.SampledFrom([]int{0, 1, 100, store.BlockSize, 3*store.BlockSize + 1}).Draw(rt, "size")
				data := payload(rapid.Uint64().Draw(rt, "seed"), size)
				c := store.Condition{}
				if rapid.Bool().Draw(rt, "only new") {
					c.IfNoneMatch = "*"
				}
				info, err := s.Put(ctx, "b", name, bytes.NewReader(data), store.PutOptions{Size: int64(size), Condition: c})
				if _, exists := model[name]; exists && c.IfNoneMatch != "" {
					require.ErrorIs(rt, err, store.ErrPrecondition)
					return
				}
				require.NoError(rt, err)
				require.Greater(rt, info.Version, versions[name])
				model[name], versions[name] = data, info.Version
			},
			"delete": func(rt *rapid.T) {
				name := names.Draw(rt, "name")
				err := s.Delete(ctx, "b", name, store.Condition{})
				if _, exists := model[name]; exists {
					require.NoError(rt, err)
				} else {
					require.ErrorIs(rt, err, store.ErrNotFound)
				}
				delete(model, name)
			},
			"read": func(rt *rapid.T) {
				name := names.Draw(rt, "name")
				want, exists := model[name]
				obj, err := s.Open("b", name)
				if !exists {
					require.ErrorIs(rt, err, store.ErrNotFound)
					return
				}
				require.NoError(rt, err)
				got := make([]byte, len(want))
				_, err = obj.ReadAt(got, 0)
				require.NoError(rt, err)
				require.True(rt, bytes.Equal(want, got))
				require.Equal(rt, versions[name], obj.Info().Version)
				require.NoError(rt, obj.Close())
			},
			"list": func(rt *rapid.T) {
				prefix := rapid.SampledFrom([]string{"", "a", "a/", "b", "ä", "zz"}).Draw(rt, "prefix")
				after := rapid.SampledFrom([]string{"", "a", "a/b", "b", "z"}).Draw(rt, "after")
				limit := rapid.IntRange(1, 8).Draw(rt, "limit")
				var want []string
				for name := range model {
					if strings.HasPrefix(name, prefix) && name > after {
						want = append(want, name)
					}
				}
				sort.Strings(want)
				infos, more, err := s.List("b", prefix, after, limit)
				require.NoError(rt, err)
				require.Equal(rt, len(want) > limit, more)
				var got []string
				for _, i := range infos {
					got = append(got, i.Name)
					require.Equal(rt, versions[i.Name], i.Version)
				}
				require.Equal(rt, want[:min(limit, len(want))], got)
			},
			"drop bucket": func(rt *rapid.T) {
				if rapid.IntRange(0, 3).Draw(rt, "really") == 0 {
					require.NoError(rt, s.DropBucket(ctx, "b"))
					clear(model)
				}
			},
			"reopen": func(rt *rapid.T) {
				require.NoError(rt, s.Close())
				s, err = store.Open(o)
				require.NoError(rt, err)
			},
			"fsck": func(rt *rapid.T) {
				report, err := s.Fsck(ctx)
				require.NoError(rt, err)
				require.Equal(rt, store.Report{Objects: int64(len(model))}, report)
			},
		})
	})
}

func tempDir(rt *rapid.T) string {
	dir, err := os.MkdirTemp("", "store-model")
	require.NoError(rt, err)
	rt.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestConcurrent puts, reads, lists and checks a few names from many goroutines. A body tells whose it is, so that a
// mix of two shows; versions that a reader sees of a name never fall.
func TestConcurrent(t *testing.T) {
	s, o := fresh(t)
	const names, writers, readers, rounds = 4, 4, 4, 25
	body := func(seed int) []byte { return bytes.Repeat(fmt.Appendf(nil, "%08d", seed), 20_000) }
	for n := range names {
		put(t, s, "b", fmt.Sprint(n), body(0))
	}
	var writing, reading sync.WaitGroup
	done := make(chan struct{})
	for w := range writers {
		writing.Go(func() {
			for i := range rounds {
				name := fmt.Sprint((i + w) % names)
				_, err := s.Put(ctx, "b", name, bytes.NewReader(body(w*rounds+i)), store.PutOptions{Size: -1})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for r := range readers {
		reading.Go(func() {
			last := map[string]uint64{}
			for i := r; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				name := fmt.Sprint(i % names)
				stat, err := s.Stat("b", name)
				if err != nil || stat.Version < last[name] {
					t.Errorf("stat %s: version %d after %d: %v", name, stat.Version, last[name], err)
					return
				}
				obj, err := s.Open("b", name)
				if err != nil {
					t.Error(err)
					return
				}
				if v := obj.Info().Version; v < stat.Version {
					t.Errorf("open %s: version %d after %d", name, v, stat.Version)
				}
				last[name] = obj.Info().Version
				got := make([]byte, obj.Info().Size)
				if _, err := obj.ReadAt(got, 0); err != nil || !bytes.Equal(got, bytes.Repeat(got[:8], len(got)/8)) {
					t.Errorf("read %s: mixed: %v", name, err)
				}
				if err := obj.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	reading.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			infos, _, err := s.List("b", "", "", 0)
			if err != nil || len(infos) != names {
				t.Errorf("list: %d names: %v", len(infos), err)
				return
			}
			report, err := s.Fsck(ctx)
			if err != nil || len(report.Corrupt)+len(report.Missing)+len(report.Stray) > 0 {
				t.Errorf("fsck beside writers: %+v %v", report, err)
				return
			}
		}
	})
	writing.Wait()
	close(done)
	reading.Wait()
	clean(t, s, o, names)
}

// TestOneWinner: of many that create a name at once, one does.
func TestOneWinner(t *testing.T) {
	s, o := fresh(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 8 {
		wg.Go(func() {
			_, err := s.Put(ctx, "b", "o", strings.NewReader("x"), store.PutOptions{Size: 1, Condition: store.Condition{IfNoneMatch: "*"}})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, won)
	clean(t, s, o, 1)
}
