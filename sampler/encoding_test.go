package sampler_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/shardstream/shardstream/sampler"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestUnmarshalRefusesEveryDamage(t *testing.T) {
	data, err := equalShards(t, 70, 200).MarshalBinary()
	require.NoError(t, err)
	for i := range data {
		_, err := sampler.UnmarshalSnapshot(data[:i])
		require.ErrorIs(t, err, sampler.ErrSnapshot, "cut to %d bytes", i)
		for bit := range 8 {
			bad := slices.Clone(data)
			bad[i] ^= 1 << bit
			if snap, err := sampler.UnmarshalSnapshot(bad); err == nil {
				require.Equal(t, "", snap.ID(), "bit %d of byte %d flipped", bit, i)
			}
		}
	}
	_, err = sampler.UnmarshalSnapshot(append(data, 0))
	require.ErrorIs(t, err, sampler.ErrSnapshot)
}

// What someone hostile would send: each page is named as it is, and yet not what a builder makes.
func TestForgedPages(t *testing.T) {
	const a = "\x00\x00\x01a\x00\x00" // shard "a", version 0, no samples
	for name, c := range map[string]struct{ page, want string }{
		"nothing":              {"", "cut short"},
		"no name":              {"\x00\x00\x00\x00\x00", "no name"},
		"name beyond data":     {"\x00\x00\x7fa\x00\x00", "cut short"},
		"no version":           {"\x00\x00\x03abc", "cut short"},
		"no samples":           {"\x00\x00\x01a\x00", "cut short"},
		"length over 64 bits":  {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "cut short"},
		"endless length":       {strings.Repeat("\xff", 40), "cut short"},
		"version over 64 bits": {"\x00\x00\x01a" + strings.Repeat("\xff", 9) + "\x02\x00", "cut short"},
		"long form of length":  {"\x80\x00\x00\x01a\x00\x00", "canonical"},
		"long form of samples": {"\x00\x00\x01a\x00\x80\x00", "canonical"},
		"negative samples":     {"\x00\x00\x01a\x00\x01", "sample count"},
		"too many samples":     {"\x00\x00\x01a\x00\xff\xff\xff\xff\xff\xff\xff\x7f", "sample count"},
		"shares with nothing":  {"\x01\x00\x01a\x00\x00", "of a name of 0"},
		"shares too much":      {a + "\x01\x01\x01b\x00\x00", "of a name of 1"},
		"shares too little":    {a + "\x00\x00\x02ab\x00\x00", "canonical"},
		"one page too many":    {a + "\x00\x00\x01b\x00\xfe\xff\xff\xff\x7f" + "\x00\x00\x01c\x00\x00", "next page"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sampler.ParsePage([]byte(c.page))
			require.ErrorIs(t, err, sampler.ErrSnapshot)
			require.ErrorContains(t, err, c.want)
		})
	}
	_, err := sampler.ParsePage(make([]byte, sampler.MaxPageBytes+1))
	require.ErrorContains(t, err, "at most")
	p, err := sampler.ParsePage([]byte(a))
	require.NoError(t, err)
	require.Equal(t, 1, p.NumShards())
}

func TestForgedRoots(t *testing.T) {
	id := strings.Repeat("i", 32)
	for name, c := range map[string]struct{ root, want string }{
		"nothing":              {"", "no snapshot header"},
		"other magic":          {"SSNQ\x02\x00", "no snapshot header"},
		"older format":         {"SSNR\x01\x00", "format 1, this software reads format 2"},
		"count beyond data":    {"SSNR\x02\xff\xff\xff\xff\x07" + id + "\x01\x01\x01", "pages announced"},
		"endless count":        {"SSNR\x02" + strings.Repeat("\xff", 12), "cut short"},
		"long form of a count": {"SSNR\x02\x81\x00" + id + "\x01\x01\x01", "canonical"},
		"no shards":            {"SSNR\x02\x01" + id + "\x00\x01\x01", "empty"},
		"no bytes":             {"SSNR\x02\x01" + id + "\x01\x01\x00", "empty"},
		"too many shards":      {"SSNR\x02\x01" + id + "\x81\x40\x01\x01", "cut short"},
		"too many bytes":       {"SSNR\x02\x01" + id + "\x01\x01\x81\x80\x10", "cut short"},
		"too many samples":     {"SSNR\x02\x02" + strings.Repeat(id+"\x01\x80\x80\x80\x80\x80\x80\x80\x02\x01", 2), "samples"},
		"bytes left over":      {"SSNR\x02\x01" + id + "\x01\x01\x01\x00", "after the last page"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sampler.ParseRoot([]byte(c.root))
			require.ErrorIs(t, err, sampler.ErrSnapshot)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestAssembleRefusesWhatDoesNotBelong(t *testing.T) {
	one, other := equalShards(t, 10_000, 3), equalShards(t, 10_000, 4)
	require.Greater(t, len(one.Pages()), 2)
	pages := slices.Clone(one.Pages())
	for name, wrong := range map[string][]*sampler.Page{
		"none": nil, "one short": pages[1:], "another's": other.Pages(),
		"turned": append([]*sampler.Page{pages[1], pages[0]}, pages[2:]...),
	} {
		_, err := sampler.Assemble(one.Root(), wrong)
		require.ErrorIs(t, err, sampler.ErrSnapshot, name)
	}
	// The same shards, divided otherwise: it would be a second id for one snapshot.
	small := equalShards(t, 2, 3)
	var halves []*sampler.Page
	root := binary.AppendUvarint([]byte("SSNR\x02"), 2)
	for i := range 2 {
		half := snapshot(t, []sampler.Shard{small.Shard(i)})
		halves = append(halves, half.Pages()...)
		root = append(root, half.Root().Data()[len("SSNR\x02\x01"):]...)
	}
	parsed, err := sampler.ParseRoot(root)
	require.NoError(t, err)
	_, err = sampler.Assemble(parsed, halves)
	require.ErrorContains(t, err, "ends early")
}

// drawMany is enough shards for several pages, with names and counts of many kinds.
func drawMany(t *rapid.T) []sampler.Shard {
	n := rapid.IntRange(0, 9000).Draw(t, "shards")
	width := rapid.SampledFrom([]int{0, 1, 8, 300}).Draw(t, "name width")
	most := rapid.SampledFrom([]int64{0, 1, 700, 1 << 20, 1 << 33}).Draw(t, "samples at most")
	shards := make([]sampler.Shard, n)
	for i := range shards {
		h := uint64(i) * 0x9e3779b97f4a7c15
		shards[i] = sampler.Shard{Name: fmt.Sprintf("b/%0*d.tar", width, i), Version: h >> (i % 50), Samples: most - int64(h%3)*(most/7)}
	}
	return shards
}

func TestPagesHoldTheShards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shards := drawMany(t)
		snap, err := sampler.NewSnapshot(shards)
		require.NoError(t, err)
		data, err := snap.MarshalBinary()
		require.NoError(t, err)
		back, err := sampler.UnmarshalSnapshot(data)
		require.NoError(t, err)
		require.Equal(t, snap.ID(), back.ID())
		first := int64(0)
		for i, want := range shards {
			if i%7 == 0 || i > len(shards)-40 {
				require.Equal(t, want, back.Shard(i))
				require.Equal(t, first, back.First(i))
			}
			if want.Samples > 0 && i%5 == 0 {
				for _, index := range []int64{0, want.Samples - 1} {
					gotShard, gotIndex := back.Locate(first + index)
					require.Equal(t, i, gotShard)
					require.Equal(t, index, gotIndex)
				}
			}
			first += want.Samples
		}
		for _, p := range back.Pages() {
			require.LessOrEqual(t, p.NumShards(), sampler.MaxPageShards)
			require.LessOrEqual(t, len(p.Data()), sampler.MaxPageBytes)
		}
	})
}

func TestSnapshotsShareWhatIsTheSame(t *testing.T) {
	shards := make([]sampler.Shard, 40_000)
	for i := range shards {
		shards[i] = sampler.Shard{Name: fmt.Sprintf("b/train-%08d.tar", 2*i), Version: 1, Samples: 100}
	}
	base := snapshot(t, shards)
	have := map[sampler.PageID]bool{}
	for _, p := range base.Pages() {
		have[p.ID()] = true
	}
	overwritten := slices.Clone(shards)
	overwritten[20_000].Version = 2
	for name, changed := range map[string][]sampler.Shard{
		"overwritten": overwritten,
		"inserted":    slices.Insert(slices.Clone(shards), 20_000, sampler.Shard{Name: "b/train-00039999.tar", Samples: 100}),
		"removed":     slices.Delete(slices.Clone(shards), 20_000, 20_001),
		"appended":    append(slices.Clone(shards), sampler.Shard{Name: "b/train-99999999.tar", Samples: 100}),
	} {
		snap, fresh := snapshot(t, changed), 0
		require.NotEqual(t, base.ID(), snap.ID())
		for _, p := range snap.Pages() {
			if !have[p.ID()] {
				fresh++
			}
		}
		require.LessOrEqual(t, fresh, 2, "%s: of %d pages", name, len(snap.Pages()))
		require.Positive(t, fresh, name)
	}
}

func TestSnapshotIsSmallInMemory(t *testing.T) {
	snap := equalShards(t, 50_000, 100)
	data, err := snap.MarshalBinary()
	require.NoError(t, err)
	require.Less(t, len(data), 50_000*12)
	require.Less(t, len(snap.Root().Data()), 50_000/10)
}

// Whatever decodes, encodes to the same bytes and can be planned over.
func FuzzUnmarshalSnapshot(f *testing.F) {
	for _, shards := range [][]sampler.Shard{nil, {{Name: "b/0", Samples: 3}}, {{Name: "b/0"}, {Name: "b/1", Version: 1 << 63, Samples: 1 << 40}}} {
		snap, err := sampler.NewSnapshot(shards)
		require.NoError(f, err)
		data, err := snap.MarshalBinary()
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		snap, err := sampler.UnmarshalSnapshot(slices.Clone(data))
		if err != nil {
			require.ErrorIs(t, err, sampler.ErrSnapshot)
			return
		}
		again, err := snap.MarshalBinary()
		require.NoError(t, err)
		require.Equal(t, data, again)
		requirePlannable(t, snap)
	})
}

// A page by itself, as a hash over a hostile one keeps nobody from sending it under its right name.
func FuzzParsePage(f *testing.F) {
	for _, n := range []int{1, 2, 40} {
		f.Add(equalShards(f, n, 7).Pages()[0].Data())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := sampler.ParsePage(data)
		if err != nil {
			require.ErrorIs(t, err, sampler.ErrSnapshot)
			return
		}
		root := append([]byte("SSNR\x02\x01"), idOf(p)...)
		for _, v := range []int{p.NumShards(), int(p.Samples()), len(p.Data())} {
			root = binary.AppendUvarint(root, uint64(v))
		}
		parsed, err := sampler.ParseRoot(root)
		require.NoError(t, err)
		snap, err := sampler.Assemble(parsed, []*sampler.Page{p})
		require.NoError(t, err)
		shards := make([]sampler.Shard, snap.NumShards())
		for i := range shards {
			shards[i] = snap.Shard(i)
		}
		require.Equal(t, snap.ID(), snapshot(t, shards).ID(), "one snapshot has one encoding")
		requirePlannable(t, snap)
	})
}

func idOf(p *sampler.Page) []byte {
	id := p.ID()
	return id[:]
}

func requirePlannable(t *testing.T, snap *sampler.Snapshot) {
	t.Helper()
	for _, mode := range modes {
		o := order(t, snap, sampler.Shuffle{Mode: mode}, 0)
		if n := o.Samples(); n > 0 {
			require.Equal(t, n-1, o.Position(o.Sample(n-1)))
		}
	}
}
