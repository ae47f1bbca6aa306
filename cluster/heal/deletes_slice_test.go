package heal_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/audit"
	"github.com/shardstream/shardstream/cluster/heal"
	"github.com/shardstream/shardstream/core/store"
)

// TestSlicesGoByProofOnly lists what is proof enough for a slice of version 10, number 1 of 2+1, to go, and what is not.
func TestSlicesGoByProofOnly(t *testing.T) {
	all := []string{"a", "b"}
	others := []string{"b", "a", "c"} // who has slices 0, 1 and 2
	for _, test := range []struct {
		name   string
		change func(*heal.Deletion)
		goes   bool
	}{
		{"the object is newer everywhere", func(d *heal.Deletion) { d.Proof = map[string]uint64{"a": 20, "b": 11} }, true},
		{"newer on one of two", func(d *heal.Deletion) { d.Proof = map[string]uint64{"a": 20, "b": 10} }, false},
		{"one has not answered", func(d *heal.Deletion) { d.Proof = map[string]uint64{"a": 20} }, false},
		{"nobody is to have the object", func(d *heal.Deletion) { d.Keepers = nil }, false},
		{"the answers are old", func(d *heal.Deletion) {
			d.Proof = map[string]uint64{"a": 20, "b": 20}
			d.Asked = d.Asked.Add(-time.Minute)
		}, false},
		{"under another map", func(d *heal.Deletion) {
			d.Proof = map[string]uint64{"a": 20, "b": 20}
			d.Map = 6
		}, false},
		{"all slices are elsewhere", func(d *heal.Deletion) { d.Slices = others }, true},
		{"one of them is nowhere", func(d *heal.Deletion) { d.Slices = []string{"b", "a", ""} }, false},
		{"one target has two of them", func(d *heal.Deletion) { d.Slices = []string{"b", "a", "a"} }, false},
		{"it is one of them itself", func(d *heal.Deletion) { d.Slices = []string{"b", "self", "c"} }, false},
		{"there are fewer than there should be", func(d *heal.Deletion) { d.Slices = others[:2] }, false},
		{"the object is older on one", func(d *heal.Deletion) {
			d.Slices = others
			d.Proof["b"] = 9
		}, false},
		{"all copies are whole", func(d *heal.Deletion) { d.Whole = all }, true},
		{"one copy is whole", func(d *heal.Deletion) { d.Whole = all[:1] }, false},
		{"nothing else is known", func(*heal.Deletion) {}, false},
		{"of no version that anybody knows", func(d *heal.Deletion) {
			d.Stray = time.Hour
			d.Proof = map[string]uint64{"a": 9, "b": 0}
		}, true},
		{"but somebody does", func(d *heal.Deletion) {
			d.Stray = time.Hour
			d.Proof = map[string]uint64{"a": 9, "b": 10}
		}, false},
		{"and it is young", func(d *heal.Deletion) {
			d.Stray = time.Hour
			d.Proof = map[string]uint64{"a": 9, "b": 0}
			d.Info.Created = time.Now()
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			log, err := audit.Open(filepath.Join(t.TempDir(), "audit"), "self")
			require.NoError(t, err)
			defer log.Close()
			var gone []store.SliceKey
			var gate heal.Gate
			deletes := heal.Deletes{
				DropSlice: func(_ context.Context, key store.SliceKey) error {
					gone = append(gone, key)
					return nil
				},
				Log: log, Leased: func() bool { return true }, Gate: &gate, Version: func() int64 { return 7 },
			}
			d := heal.Deletion{
				Info: store.Info{
					Bucket: "bucket", Name: "x", Version: 10, Kind: store.Slice, Slice: 1, Data: 2, Parity: 1, Created: time.Now().Add(-2 * time.Hour),
				},
				Reason: test.name, Keepers: all, Proof: map[string]uint64{"a": 10, "b": 10}, Asked: time.Now(), Map: 7,
			}
			test.change(&d)
			n, err := deletes.Do(t.Context(), "self", []heal.Deletion{d})
			if !test.goes {
				require.ErrorIs(t, err, heal.ErrNoProof)
				require.Empty(t, gone)
				return
			}
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.Equal(t, []store.SliceKey{{Bucket: "bucket", Name: "x", Version: 10, Slice: 1}}, gone)
		})
	}
}
