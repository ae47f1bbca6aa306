package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/store/failpoint"
)

func clockAt(seconds int64) func() time.Time {
	return func() time.Time { return time.Unix(seconds, 0) }
}

// onDisk2 is a name whose new versions go to the second disk, when there are both.
const onDisk2 = "n1"

// v numbers versions that are given.
func v(n uint64) uint64 { return 1<<62 + n }

// change is something that a store does, and must do as a whole or not at all.
type change struct {
	name  string
	setup func(c *changer)
	do    func(c *changer) // nil: open the store
}

// changer does things to a store, so that they read as a list.
type changer struct {
	t testing.TB
	m *machine
	s *store.Store

	loseIndex bool // at the end of the setup
}

func (c *changer) put(name string, version uint64, coded bool) {
	o := store.PutOptions{Size: -1, Version: v(version), Created: time.Unix(1_600_000_000, 0), Meta: map[string]string{"a": "b"}}
	if coded {
		o.Data, o.Parity = 4, 2
	}
	_, err := c.s.Put(ctx, "b", name, bytes.NewReader(payload(7, 70_000)), o)
	require.NoError(c.t, err)
}

// described is an object of an origin, and cached the description of it with what was learnt by reading it.
func (c *changer) described(name string, version uint64) store.Info {
	return store.Info{
		Bucket: "b", Name: name, Version: v(version), Created: time.Unix(1_600_000_000, 0), Size: int64(len(c.cold(name))),
		Meta: map[string]string{store.OriginTag: "tag", store.UnreadMark: "1"},
	}
}

// cold is what the origin has under a name.
func (c *changer) cold(name string) []byte {
	if archive.FormatOf(name) == archive.None {
		return payload(7, 70_000)
	}
	return tarOf(c.t, map[string][]byte{"a.jpg": payload(7, 70_000)})
}

func (c *changer) describe(name string, version uint64) {
	i := c.described(name, version)
	var x *archive.Index
	if i.Archive = archive.FormatOf(name); i.Archive != archive.None {
		x = scanned(c.t, c.cold(name))
	}
	_, err := c.s.PutStub(ctx, i, x, store.Condition{})
	c.must(err)
}

func (c *changer) fill(name string, version uint64) {
	_, err := fill(c.s, c.described(name, version), c.cold(name))
	c.must(err)
}

func (c *changer) stage(name string) *store.Staged {
	staged, err := c.s.Stage(ctx, "b", name, bytes.NewReader(payload(7, 70_000)), store.PutOptions{Size: 70_000})
	require.NoError(c.t, err)
	return staged
}

func (c *changer) slice(name string, slice int) {
	key := store.SliceKey{Bucket: "b", Name: name, Version: v(1), Slice: slice}
	_, err := c.s.PutSlice(ctx, key, bytes.NewReader(payload(8, 70_000)), store.PutOptions{Size: 70_000, Data: 4, Parity: 2})
	require.NoError(c.t, err)
}

func (c *changer) must(err error) { require.NoError(c.t, err) }

// only has the store opened with one of the disks.
func (c *changer) only(disk int) {
	c.must(c.s.Close())
	o := c.m.options()
	o.Disks = o.Disks[disk-1 : disk]
	s, err := store.Open(o)
	c.must(err)
	c.s = s
}

var changes = []change{
	{"put", func(*changer) {}, func(c *changer) { c.put("o", 2, false) }},
	{"overwrite", func(c *changer) { c.put("o", 1, false) }, func(c *changer) { c.put("o", 2, false) }},
	{
		"overwrite on another disk",
		func(c *changer) {
			c.only(1)
			c.put(onDisk2, 1, false)
		},
		func(c *changer) { c.put(onDisk2, 2, false) },
	},
	{"stage and commit", func(c *changer) { c.put("o", 1, false) }, func(c *changer) {
		_, err := c.stage("o").Commit(v(2), time.Unix(1_600_000_000, 0), store.Condition{})
		c.must(err)
	}},
	{"stage and discard", func(c *changer) { c.put("o", 1, false) }, func(c *changer) { c.must(c.stage("o").Discard()) }},
	{"replace a damaged copy", func(c *changer) { c.put("o", 2, false) }, func(c *changer) {
		_, err := c.stage("o").Replace(v(2), time.Unix(1_600_000_000, 0), true)
		c.must(err)
	}},
	{"delete", func(c *changer) { c.put("o", 1, false) }, func(c *changer) { c.must(c.s.Delete(ctx, "b", "o", store.Condition{})) }},
	{"bury", func(c *changer) { c.put("o", 1, false) }, func(c *changer) { c.must(c.s.Bury(ctx, "b", "o", v(2))) }},
	{"bury what is not here", func(*changer) {}, func(c *changer) { c.must(c.s.Bury(ctx, "b", "o", v(2))) }},
	{"put over a tombstone", func(c *changer) { c.must(c.s.Bury(ctx, "b", "o", v(1))) }, func(c *changer) { c.put("o", 2, false) }},
	{"drop", func(c *changer) { c.put("o", 1, false) }, func(c *changer) { c.must(c.s.Drop(ctx, "b", "o", v(1))) }},
	{"drop a tombstone", func(c *changer) { c.must(c.s.Bury(ctx, "b", "o", v(1))) }, func(c *changer) { c.must(c.s.Drop(ctx, "b", "o", v(1))) }},
	{"evict", func(c *changer) { c.put("o", 1, true) }, func(c *changer) { c.must(c.s.Evict(ctx, "b", "o", v(1))) }},
	{"fill", func(c *changer) {
		c.put("o", 1, true)
		c.must(c.s.Evict(ctx, "b", "o", v(1)))
	}, func(c *changer) { c.put("o", 1, true) }},
	{"describe", func(c *changer) { c.put("o", 1, false) }, func(c *changer) { c.describe("o", 2) }},
	{"describe an archive", func(c *changer) { c.describe("s.tar", 1) }, func(c *changer) { c.describe("s.tar", 2) }},
	{"describe many", func(c *changer) {
		c.only(1)
		c.put(onDisk2, 1, false)
		c.fill("x", 1)
		c.describe("y", 1)
	}, func(c *changer) {
		_, failed := c.s.PutStubs(ctx, []store.Info{c.described(onDisk2, 2), c.described("x", 2), c.described("y", 2), c.described("z", 2)})
		c.must(errors.Join(failed...))
	}},
	{"fill a description", func(c *changer) { c.describe("o", 1) }, func(c *changer) { c.fill("o", 1) }},
	{"fill that of an archive", func(c *changer) { c.describe("s.tar", 1) }, func(c *changer) { c.fill("s.tar", 1) }},
	{"evict what is cached", func(c *changer) { c.fill("o", 1) }, func(c *changer) { c.must(c.s.Evict(ctx, "b", "o", v(1))) }},
	{"evict a cached archive", func(c *changer) { c.fill("s.tar", 1) }, func(c *changer) { c.must(c.s.Evict(ctx, "b", "s.tar", v(1))) }},
	{"put a cached copy aside", func(c *changer) { c.fill("o", 1) }, func(c *changer) { c.must(c.s.Quarantine(ctx, "b", "o", v(1))) }},
	{"forget", func(c *changer) { c.fill("o", 1) }, func(c *changer) { c.must(c.s.Forget(ctx, "b", "o", v(1))) }},
	{"forget a description", func(c *changer) { c.describe("s.tar", 1) }, func(c *changer) { c.must(c.s.Forget(ctx, "b", "s.tar", v(1))) }},
	{"put aside", func(c *changer) { c.put("o", 1, false) }, func(c *changer) { c.must(c.s.Quarantine(ctx, "b", "o", v(1))) }},
	{"put a slice", func(*changer) {}, func(c *changer) { c.slice("o", 1) }},
	{"put a slice again", func(c *changer) { c.slice("o", 1) }, func(c *changer) { c.slice("o", 1) }},
	{"drop a slice", func(c *changer) { c.slice("o", 1) }, func(c *changer) {
		c.must(c.s.DropSlice(ctx, store.SliceKey{Bucket: "b", Name: "o", Version: v(1), Slice: 1}))
	}},
	{"drop a bucket", func(c *changer) {
		for _, name := range []string{"x", "y", onDisk2} {
			c.put(name, 1, false)
			c.slice(name, 3)
		}
		c.must(c.s.Bury(ctx, "b", "z", v(1)))
	}, func(c *changer) { c.must(c.s.DropBucket(ctx, "b")) }},
	{"empty a disk", func(c *changer) {
		c.put(onDisk2, 1, true)
		c.slice(onDisk2, 1)
		c.put("o", 1, false)
		for _, name := range []string{"q", "r", "t", "u", "s.tar"} {
			c.describe(name, 1)
		}
	}, func(c *changer) { c.must(c.s.EmptyDisk(ctx, "disk-2", nil)) }},
	{"open with debris", func(c *changer) {
		c.put("o", 1, false)
		for p, d := range c.m.disk {
			var old []*inode // as if a crash had kept it from being removed
			d.now.each(func(_ string, i *inode) { old = append(old, i) })
			for _, i := range old {
				c.m.write(p, "data/00/00112233445566778899aabbccddeeff", i.now)
			}
		}
		c.m.write(c.m.paths[0], "tmp/00112233445566778899aabbccddeeff", []byte("x"))
	}, nil},
	{"open two copies", func(c *changer) {
		c.only(2)
		c.put("o", 2, false)
		c.only(1)
		c.put("o", 1, false)
	}, nil},
	{"open without the index", func(c *changer) {
		c.put("o", 1, false)
		c.put("p", 1, true)
		c.must(c.s.Evict(ctx, "b", "p", v(1)))
		c.slice("p", 1)
		c.loseIndex = true
	}, nil},
}

// TestCrashAnywhere crashes each change at each of its steps, and looks at all that may be left on the disks: the store
// opens, each object is as before or as after the change and has its bytes, and no file is there for nothing.
func TestCrashAnywhere(t *testing.T) {
	fired := map[string]bool{}
	t.Cleanup(disarm)
	m := newMachine(t)
	s, err := store.Open(m.options()) // formats the disks
	require.NoError(t, err)
	require.Equal(t, "disk-2", put(t, s, "b", onDisk2, nil).Disk)
	require.NoError(t, s.Close())
	for _, change := range changes {
		t.Run(change.name, func(t *testing.T) {
			m.t = t
			m.restore(image{})
			start := prepared(m, change)
			m.restore(start)
			before := observed(m)
			m.restore(start)
			var steps []string
			run(m, change, func(step string) error {
				steps = append(steps, step)
				return nil
			})
			after := observed(m)
			require.NotEmpty(t, steps)
			for n, step := range steps {
				fired[step] = true
				m.restore(start)
				seen := 0
				var left *crashed
				run(m, change, func(string) error {
					if seen++; seen <= n {
						return nil
					}
					if left == nil {
						left = m.crash()
					}
					if change.do != nil {
						runtime.Goexit() // as far as a goroutine of a dying process comes
					}
					return errOff
				})
				require.NotNil(t, left, "the step is come by again")
				for how, image := range left.outcomes() {
					m.restore(image)
					got := observed(m)
					checkOutcome(t, fmt.Sprintf("%s at %d, %s", how, n+1, step), got, before, after, image.meta == nil)
				}
			}
		})
	}
	if !t.Failed() {
		require.Equal(t, failpoint.Names(), slices.Sorted(maps.Keys(fired)), "a crash was tried at each failpoint")
	}
}

func prepared(m *machine, change change) image {
	s, err := store.Open(m.options())
	require.NoError(m.t, err)
	c := &changer{t: m.t, m: m, s: s}
	change.setup(c)
	c.must(c.s.Close())
	left := m.crash()
	if c.loseIndex {
		left.metaKept = nil
	}
	return image{left.kept, left.metaKept}
}

// run makes the change, with at called at each of its steps.
func run(m *machine, change change, at func(step string) error) {
	arm := func() {
		for _, step := range failpoint.Names() {
			require.NoError(m.t, failpoint.Arm(step, func() error { return at(step) }))
		}
	}
	if change.do == nil {
		arm()
	}
	s, err := store.Open(m.options())
	if err == nil {
		arm()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if change.do != nil {
				change.do(&changer{t: m.t, m: m, s: s})
			}
		}()
		<-done
		_ = s.Close() // of a machine that may be off
	} else if !m.isOff() {
		require.NoError(m.t, err)
	}
	disarm()
}

func disarm() {
	for _, step := range failpoint.Names() {
		_ = failpoint.Arm(step, nil) // it exists
	}
}

// observed is all that a store holds, by key: what is known of a copy, and the checksum of its bytes.
func observed(m *machine) map[string]string {
	t := m.t
	t.Helper()
	s, err := store.Open(m.options())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	out := map[string]string{}
	add := func(key string, i store.Info, data []byte) {
		i.Disk = ""
		out[key] = fmt.Sprintf("%+v %x", i, xxh3.Hash(data))
	}
	var indexed int // without a file
	infos, _, err := s.ListAll("b", "", "", 0)
	require.NoError(t, err)
	for _, i := range infos {
		var data []byte
		if i.Kind == store.Whole {
			data = read(t, s, "b", i.Name)
		}
		add(i.Name, i, data)
		if _, files, err := s.Locate("b", i.Name); err != nil || len(files) == 0 {
			out[i.Name] += inIndexOnly
		}
		if strings.HasSuffix(out[i.Name], inIndexOnly) && i.Kind != store.Tombstone {
			indexed++
			require.Equal(t, store.Stub, i.Kind)
		}
	}
	held, _, err := s.ListSlices("b", store.SliceKey{}, 0)
	require.NoError(t, err)
	for _, i := range held {
		key := store.SliceKey{Bucket: "b", Name: i.Name, Version: i.Version, Slice: i.Slice}
		add(key.String(), i, readSlice(t, s, key))
	}
	report, err := s.Fsck(ctx)
	require.NoError(t, err)
	report.Missing = slices.DeleteFunc(report.Missing, func(f store.Finding) bool { return strings.Contains(f.Detail, "put aside") })
	require.Empty(t, slices.Concat(report.Corrupt, report.Missing, report.Stray))
	require.EqualValues(t, len(infos)+len(held), report.Objects+report.Slices+report.Tombstones)
	require.EqualValues(t, m.files()+indexed, report.Objects+report.Slices)
	return out
}

// inIndexOnly marks what is gone when the index is: tombstones, and stubs that have no file.
const inIndexOnly = " (in the index only)"

// checkOutcome holds each key against what it was before and after the change.
func checkOutcome(t *testing.T, what string, got, before, after map[string]string, noIndex bool) {
	t.Helper()
	seen := maps.Clone(before)
	maps.Copy(seen, after)
	maps.Copy(seen, got)
	for key := range seen {
		allowed := []string{before[key], after[key]}
		if noIndex {
			for n, a := range allowed {
				if strings.HasSuffix(a, inIndexOnly) {
					allowed[n] = ""
				}
			}
		}
		require.Contains(t, allowed, got[key], "%s: %s", what, key)
	}
}
