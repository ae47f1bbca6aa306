package wire

import (
	"encoding/binary"
)

// Nowhere is the destination of an item that the loader does not want: its sample is there already.
const Nowhere = -1

// PlacementSize is the size of a placement's fixed part.
const PlacementSize = 32

// MaxSlot bounds the number of a slot, and with it what a loader may make a target map.
const MaxSlot = 1 << 12

// Placement is a loader's answer to the head of a Placed frame: into which slot of its memory, and where
// in it, the target writes each item. It goes from the loader to the target, over a Unix socket; the
// slot's memfd travels beside it the first time that the connection names the slot.
//
//	"SSP1" | slot u32 | items u32 | zero u32 | slot's size in bytes u64 | batch u64 | int64 offset of each item
type Placement struct {
	Slot  int
	Size  int64 // of the slot's file now; it never shrinks
	Index int64 // of the batch
	Items int
}

// AppendPlacement appends the placement of items at the offsets given.
func AppendPlacement(dst []byte, p Placement, offsets []int64) []byte {
	dst = append(dst, 'S', 'S', 'P', '1')
	dst = binary.LittleEndian.AppendUint32(dst, uint32(p.Slot))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(offsets)))
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.Size))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(p.Index))
	for _, off := range offsets {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(off))
	}
	return dst
}

// ParsePlacement decodes and bounds the fixed part of a placement.
func ParsePlacement(b []byte) (Placement, error) {
	if len(b) != PlacementSize || string(b[:4]) != "SSP1" || b[12]|b[13]|b[14]|b[15] != 0 {
		return Placement{}, malformed("no placement")
	}
	slot, items := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:])
	size, index := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	switch {
	case slot >= MaxSlot:
		return Placement{}, malformed("slot %d, at most %d", slot, MaxSlot-1)
	case items > MaxItems:
		return Placement{}, malformed("%d items, at most %d", items, MaxItems)
	case size > MaxPayload:
		return Placement{}, malformed("a slot of %d bytes", size)
	case index > 1<<62:
		return Placement{}, malformed("bad batch number")
	}
	return Placement{Slot: int(slot), Size: int64(size), Index: int64(index), Items: int(items)}, nil
}

// ParseOffsets decodes the offsets of a placement's items.
func ParseOffsets(b []byte, dst []int64) []int64 {
	dst = dst[:0]
	for ; len(b) >= 8; b = b[8:] {
		dst = append(dst, int64(binary.LittleEndian.Uint64(b)))
	}
	return dst
}
