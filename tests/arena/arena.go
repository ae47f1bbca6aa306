// Package arena reads the batches that a loader leaves in its memory, for tests. It goes by the layout
// that loader/table.go documents and by none of its code, as Python does.
package arena

import (
	"encoding/binary"

	"github.com/shardstream/shardstream/core/wire"
)

// Batch is a batch as a reader of the arena sees it, copied out of it.
type Batch struct {
	Index, Start, Next int64
	Keys               []string
	Mask               []byte  // nil where nothing is padded
	Sources            []int64 // numbers of the samples' sources; nil outside of mixtures
	Columns            map[string]Column
}

// Column is one field of a batch.
type Column struct {
	DType, Kind int64
	Dims        []int64
	Dense       []byte
	Ragged      [][]byte // nil where a sample lacks the field
}

// Read reads the batch whose table is at an offset.
func Read(mem []byte, at int64) Batch {
	w := func(off int64) int64 { return int64(binary.LittleEndian.Uint64(mem[off:])) }
	n := w(at + 8)
	v := Batch{Index: w(at + 24), Start: w(at + 32), Next: w(at + 40), Columns: map[string]Column{}}
	keys, ends := w(at+64), w(at+80)
	var from int64
	for i := range n {
		end := w(ends + 8*i)
		v.Keys = append(v.Keys, string(mem[keys+from:keys+end]))
		from = end
	}
	if m := w(at + 88); m != 0 {
		v.Mask = append([]byte{}, mem[m:m+n]...)
	}
	if s := w(at + 104); s != 0 {
		for i := range n {
			v.Sources = append(v.Sources, w(s+8*i))
		}
	}
	for c := range w(at + 16) {
		b := at + 128*(c+1)
		name := string(mem[w(b) : w(b)+w(b+8)])
		col := Column{DType: w(b + 16), Kind: w(b + 24)}
		if col.Kind == 0 {
			size := wire.ItemSize(uint8(col.DType)) * n
			for d := range w(b + 32) {
				col.Dims = append(col.Dims, w(b+40+8*d))
				size *= col.Dims[d]
			}
			col.Dense = append([]byte{}, mem[w(b+104):w(b+104)+size]...)
		} else {
			for i := range n {
				off, length := w(w(b+104)+16*i), w(w(b+104)+16*i+8)
				if length < 0 {
					col.Ragged = append(col.Ragged, nil)
					continue
				}
				col.Ragged = append(col.Ragged, append([]byte{}, mem[off:off+length]...))
			}
		}
		v.Columns[name] = col
	}
	return v
}
