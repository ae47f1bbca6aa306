package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/store"
)

// held is what the model has of a name: the newest copy, a tombstone perhaps.
type heldCopy struct {
	kind    store.Kind
	version uint64
	data    []byte
	coded   bool
	cached  bool // its origin has it, too
	unread  bool
}

// inIndexOnly says that there is no file.
func (h *heldCopy) inIndexOnly() bool {
	return h.kind == store.Tombstone || h.kind == store.Stub && h.cached
}

func (h *heldCopy) elsewhere() bool { return h.coded || h.cached }

func (h *heldCopy) holds() int {
	return map[store.Kind]int{store.Lost: 0, store.Stub: 1, store.Whole: 2, store.Tombstone: 3}[h.kind]
}

// copiesModel does to a map what the store does to disks.
type copiesModel struct {
	m      *machine
	s      *store.Store
	held   map[string]*heldCopy
	slices map[store.SliceKey][]byte
	staged []stagedCopy
}

type stagedCopy struct {
	*store.Staged
	name string
	next heldCopy
}

var (
	modelNames    = rapid.SampledFrom([]string{"a", "a/b", "b", "ä"})
	modelVersions = rapid.Uint64Range(1, 6)
	created       = time.Unix(1_600_000_000, 0)
)

// bodyOf is what a version of a name holds, whoever has it.
func bodyOf(name string, version uint64) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%s %d,", name, version), int(version%7)*2000)
}

// accepts says whether a copy may take the place of what is held; as an error of the store's.
func (c *copiesModel) accepts(name string, next *heldCopy, replace bool) error {
	now := c.held[name]
	switch {
	case now == nil || next.version > now.version:
		return nil
	case next.version < now.version || now.kind == store.Tombstone:
		return store.ErrSuperseded
	case replace || next.holds() > now.holds(), next.kind == store.Stub && now.kind == store.Stub && now.unread && !next.unread:
		if next.cached != now.cached {
			return store.ErrDiffers
		}
		return nil
	}
	return store.ErrSuperseded
}

func (c *copiesModel) expect(rt *rapid.T, name string, next heldCopy, want, got error) {
	if want != nil {
		require.ErrorIs(rt, got, want)
		return
	}
	require.NoError(rt, got)
	c.held[name] = &next
}

func (c *copiesModel) drawCopy(rt *rapid.T) (string, heldCopy) {
	name := modelNames.Draw(rt, "name")
	version := v(modelVersions.Draw(rt, "version"))
	form := rapid.SampledFrom([]string{"own", "coded", "cached"}).Draw(rt, "form")
	return name, heldCopy{kind: store.Whole, version: version, data: bodyOf(name, version), coded: form == "coded", cached: form == "cached"}
}

func (h *heldCopy) options() store.PutOptions {
	o := store.PutOptions{Size: int64(len(h.data)), Version: h.version, Created: created}
	if h.coded {
		o.Data, o.Parity = 4, 2
	}
	if h.cached {
		o.Meta = map[string]string{store.OriginTag: "tag"}
	}
	return o
}

// describe puts what an origin tells of an object, with checksums or without.
func (c *copiesModel) describe(rt *rapid.T) {
	name, next := c.drawCopy(rt)
	next.kind, next.coded, next.cached = store.Stub, false, true
	next.unread = rapid.Bool().Draw(rt, "unread")
	info := store.Info{
		Bucket: "b", Name: name, Version: next.version, Created: created, Size: int64(len(next.data)), XXH3: xxh3.Hash(next.data),
		CRC32: crc32.ChecksumIEEE(next.data), Meta: map[string]string{store.OriginTag: "tag"},
	}
	if next.unread {
		info.Meta[store.UnreadMark] = "1"
	}
	want := c.accepts(name, &next, false)
	if rapid.Bool().Draw(rt, "with others") {
		_, failed := c.s.PutStubs(ctx, []store.Info{info})
		c.expect(rt, name, next, want, failed[0])
		return
	}
	_, err := c.s.PutStub(ctx, info, nil, store.Condition{})
	c.expect(rt, name, next, want, err)
}

func (c *copiesModel) forget(rt *rapid.T) {
	name, like := c.drawCopy(rt)
	err := c.s.Forget(ctx, "b", name, like.version)
	now := c.held[name]
	switch {
	case now == nil || now.version != like.version || now.kind == store.Tombstone:
		require.NoError(rt, err)
	case !now.cached:
		require.ErrorIs(rt, err, store.ErrSole)
	default:
		require.NoError(rt, err)
		delete(c.held, name)
	}
}

func (c *copiesModel) put(rt *rapid.T) {
	name, next := c.drawCopy(rt)
	want := c.accepts(name, &next, false)
	_, err := c.s.Put(ctx, "b", name, bytes.NewReader(next.data), next.options())
	c.expect(rt, name, next, want, err)
}

// write is a put without a version: it has the newest.
func (c *copiesModel) write(rt *rapid.T) {
	name, next := c.drawCopy(rt)
	o := next.options()
	o.Version = 0
	info, err := c.s.Put(ctx, "b", name, bytes.NewReader(next.data), o)
	require.NoError(rt, err)
	if now := c.held[name]; now != nil {
		require.Greater(rt, info.Version, now.version)
	}
	next.version = info.Version
	c.held[name] = &next
}

func (c *copiesModel) stage(rt *rapid.T) {
	name, next := c.drawCopy(rt)
	staged, err := c.s.Stage(ctx, "b", name, bytes.NewReader(next.data), next.options())
	require.NoError(rt, err)
	c.staged = append(c.staged, stagedCopy{staged, name, next})
}

func (c *copiesModel) endStaged(rt *rapid.T, end func(g *stagedCopy)) {
	if len(c.staged) == 0 {
		return
	}
	n := rapid.IntRange(0, len(c.staged)-1).Draw(rt, "which")
	end(&c.staged[n])
	_, err := c.staged[n].Commit(1, created, store.Condition{})
	require.ErrorIs(rt, err, store.ErrDiscarded)
	require.NoError(rt, c.staged[n].Discard())
	c.staged = slices.Delete(c.staged, n, n+1)
}

func (c *copiesModel) commit(rt *rapid.T) {
	c.endStaged(rt, func(g *stagedCopy) {
		want := c.accepts(g.name, &g.next, false)
		_, err := g.Commit(g.next.version, created, store.Condition{})
		c.expect(rt, g.name, g.next, want, err)
	})
}

func (c *copiesModel) replace(rt *rapid.T) {
	c.endStaged(rt, func(g *stagedCopy) {
		want := c.accepts(g.name, &g.next, true)
		_, err := g.Replace(g.next.version, created, rapid.Bool().Draw(rt, "damaged"))
		c.expect(rt, g.name, g.next, want, err)
	})
}

func (c *copiesModel) discard(rt *rapid.T) {
	c.endStaged(rt, func(g *stagedCopy) { require.NoError(rt, g.Discard()) })
}

func (c *copiesModel) bury(rt *rapid.T) {
	name, next := c.drawCopy(rt)
	next = heldCopy{kind: store.Tombstone, version: next.version}
	want := error(nil)
	if now := c.held[name]; now != nil && now.version >= next.version {
		want = store.ErrSuperseded
	}
	c.expect(rt, name, next, want, c.s.Bury(ctx, "b", name, next.version))
}

func (c *copiesModel) drop(rt *rapid.T) {
	name, like := c.drawCopy(rt)
	require.NoError(rt, c.s.Drop(ctx, "b", name, like.version))
	if now := c.held[name]; now != nil && now.version == like.version {
		delete(c.held, name)
	}
}

func (c *copiesModel) delete(rt *rapid.T) {
	name := modelNames.Draw(rt, "name")
	err := c.s.Delete(ctx, "b", name, store.Condition{})
	if now := c.held[name]; now == nil || now.kind == store.Tombstone {
		require.ErrorIs(rt, err, store.ErrNotFound)
		return
	}
	require.NoError(rt, err)
	delete(c.held, name)
}

func (c *copiesModel) evict(rt *rapid.T) {
	name, like := c.drawCopy(rt)
	err := c.s.Evict(ctx, "b", name, like.version)
	now := c.held[name]
	switch {
	case now == nil || now.version != like.version || now.kind != store.Whole:
		require.NoError(rt, err)
	case !now.elsewhere():
		require.ErrorIs(rt, err, store.ErrSole)
	default:
		require.NoError(rt, err)
		now.kind = store.Stub
	}
}

func (c *copiesModel) quarantine(rt *rapid.T) {
	name, like := c.drawCopy(rt)
	require.NoError(rt, c.s.Quarantine(ctx, "b", name, like.version))
	if now := c.held[name]; now != nil && now.version == like.version && now.kind == store.Whole {
		if now.kind = store.Lost; now.elsewhere() {
			now.kind = store.Stub
		}
	}
}

// push puts a copy of what is held here already, from somewhere else: a stub, or the whole.
func (c *copiesModel) push(rt *rapid.T) {
	name := modelNames.Draw(rt, "name")
	now := c.held[name]
	if now == nil || now.kind == store.Tombstone {
		return
	}
	info, known, err := c.s.State("b", name)
	require.NoError(rt, err)
	require.True(rt, known)
	next := *now
	next.unread = false
	if next.kind = store.Whole; now.elsewhere() && rapid.Bool().Draw(rt, "stub") {
		next.kind, next.unread = store.Stub, now.unread
	}
	want := c.accepts(name, &next, false)
	if next.kind == store.Stub {
		_, err = c.s.PutStub(ctx, info, nil, store.Condition{})
		c.expect(rt, name, next, want, err)
		return
	}
	if other := append([]byte("x"), now.data...); want == nil {
		o := info.PutOptions()
		o.Size, o.XXH3, o.CRC32 = -1, nil, nil
		_, err = c.s.Put(ctx, "b", name, bytes.NewReader(other), o)
		var sum *store.ChecksumError
		if now.unread {
			require.ErrorIs(rt, err, store.ErrDiffers)
		} else {
			require.ErrorAs(rt, err, &sum, "other bytes of the version")
		}
	}
	_, err = c.s.Put(ctx, "b", name, bytes.NewReader(now.data), info.PutOptions())
	c.expect(rt, name, next, want, err)
}

func (c *copiesModel) drawSlice(rt *rapid.T) store.SliceKey {
	return store.SliceKey{
		Bucket: "b", Name: modelNames.Draw(rt, "name"), Version: v(modelVersions.Draw(rt, "version")),
		Slice: rapid.IntRange(0, 2).Draw(rt, "slice"),
	}
}

func (c *copiesModel) putSlice(rt *rapid.T) {
	key := c.drawSlice(rt)
	data := bodyOf(key.Name, key.Version+uint64(key.Slice))
	_, err := c.s.PutSlice(ctx, key, bytes.NewReader(data), store.PutOptions{Size: int64(len(data)), Data: 4, Parity: 2})
	require.NoError(rt, err)
	c.slices[key] = data
}

func (c *copiesModel) dropSlice(rt *rapid.T) {
	key := c.drawSlice(rt)
	require.NoError(rt, c.s.DropSlice(ctx, key))
	delete(c.slices, key)
}

func (c *copiesModel) dropBucket(rt *rapid.T) {
	if rapid.IntRange(0, 3).Draw(rt, "really") == 0 {
		require.NoError(rt, c.s.DropBucket(ctx, "b"))
		clear(c.held)
		clear(c.slices)
	}
}

// stop ends the store in one of the ways in which one ends, and starts it.
func (c *copiesModel) stop(rt *rapid.T) {
	how := rapid.SampledFrom([]string{"close", "killed", "power cut", "killed, and the index is lost"}).Draw(rt, "how")
	if how == "close" {
		require.NoError(rt, c.s.Close())
	} else {
		left := c.m.crash()
		_ = c.s.Close() // of a machine that is off
		next := left.outcomes()[how]
		if c.m.restore(next); next.meta == nil {
			maps.DeleteFunc(c.held, func(_ string, h *heldCopy) bool { return h.inIndexOnly() })
		}
	}
	c.staged = nil
	var err error
	c.s, err = store.Open(c.m.options())
	require.NoError(rt, err)
}

// check compares all that the store tells with the model; rapid calls it after each step.
func (c *copiesModel) check(rt *rapid.T) {
	var objects, all []string
	files := len(c.slices) + len(c.staged)
	want := store.Report{Slices: int64(len(c.slices))}
	for _, name := range slices.Sorted(maps.Keys(c.held)) {
		h := c.held[name]
		all = append(all, name)
		if h.kind != store.Tombstone {
			objects = append(objects, name)
			want.Objects++
		} else {
			want.Tombstones++
		}
		if h.kind == store.Stub {
			want.Stubs++
		}
		if h.kind != store.Tombstone && !h.inIndexOnly() {
			files++
		}
		c.checkOne(rt, name, h)
	}
	names := func(list func(bucket, prefix, after string, limit int) ([]store.Info, bool, error)) (out []string) {
		infos, more, err := list("b", "", "", 0)
		require.NoError(rt, err)
		require.False(rt, more)
		for _, i := range infos {
			out = append(out, i.Name)
		}
		return out
	}
	require.Equal(rt, objects, names(c.s.List))
	require.Equal(rt, all, names(c.s.ListAll))
	for key, data := range c.slices {
		o, err := c.s.OpenSlice(key)
		require.NoError(rt, err)
		got := make([]byte, len(data))
		_, err = o.ReadAt(got, 0)
		require.NoError(rt, errors.Join(err, o.Close()))
		require.True(rt, bytes.Equal(data, got))
	}
	report, err := c.s.Fsck(ctx)
	require.NoError(rt, err)
	report.Missing = slices.DeleteFunc(report.Missing, func(f store.Finding) bool { return strings.Contains(f.Detail, "put aside") })
	if len(report.Missing) == 0 {
		report.Missing = nil
	}
	require.Equal(rt, want, report)
	require.Equal(rt, files, c.m.files())
}

func (c *copiesModel) checkOne(rt *rapid.T, name string, h *heldCopy) {
	info, known, err := c.s.State("b", name)
	require.NoError(rt, err)
	require.True(rt, known)
	require.Equal(rt, []any{h.kind, h.version, int64(len(h.data)), h.unread}, []any{info.Kind, info.Version, info.Size, info.Unread()}, name)
	o, err := c.s.Open("b", name)
	switch h.kind {
	case store.Whole:
		require.NoError(rt, err)
		got := make([]byte, len(h.data))
		_, err = o.ReadAt(got, 0)
		require.NoError(rt, errors.Join(err, o.Close()))
		require.True(rt, bytes.Equal(h.data, got))
	case store.Stub:
		require.ErrorIs(rt, err, store.ErrStub)
	case store.Lost:
		require.ErrorIs(rt, err, store.ErrLost)
	default:
		require.ErrorIs(rt, err, store.ErrNotFound)
	}
}

// TestCopiesModel does to a store what targets do with the copies of their cluster, and to a map, and compares.
func TestCopiesModel(t *testing.T) {
	m := newMachine(t)
	rapid.Check(t, func(rt *rapid.T) {
		m.restore(image{})
		c := &copiesModel{m: m, held: map[string]*heldCopy{}, slices: map[store.SliceKey][]byte{}}
		var err error
		c.s, err = store.Open(m.options())
		require.NoError(rt, err)
		defer func() { _ = c.s.Close() }() // it may be off
		rt.Repeat(map[string]func(*rapid.T){
			"":           c.check,
			"put":        c.put,
			"write":      c.write,
			"stage":      c.stage,
			"commit":     c.commit,
			"replace":    c.replace,
			"discard":    c.discard,
			"bury":       c.bury,
			"drop":       c.drop,
			"delete":     c.delete,
			"evict":      c.evict,
			"describe":   c.describe,
			"forget":     c.forget,
			"quarantine": c.quarantine,
			"push":       c.push,
			"put slice":  c.putSlice,
			"drop slice": c.dropSlice,
			"bucket":     c.dropBucket,
			"stop":       c.stop,
		})
	})
}
