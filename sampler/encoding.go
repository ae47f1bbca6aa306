package sampler

import (
	"encoding/binary"
	"fmt"
)

// A pack is a root and pages of it in one piece, each behind its length as a shortest uvarint: how a
// snapshot travels that is small enough to be sent at once.

// MarshalBinary encodes the snapshot as a pack of its root and all its pages; equal snapshots give
// equal bytes.
func (s *Snapshot) MarshalBinary() ([]byte, error) {
	size := len(s.root.data) + binary.MaxVarintLen32*(1+len(s.pages))
	for _, p := range s.pages {
		size += len(p.data)
	}
	b := AppendPart(make([]byte, 0, size), s.root.data)
	for _, p := range s.pages {
		b = AppendPart(b, p.data)
	}
	return b, nil
}

// UnmarshalSnapshot decodes what MarshalBinary wrote, and nothing else: a damaged, cut, padded or
// differently encoded snapshot is refused. Memory is bounded by a small multiple of len(data), which
// it takes over.
func UnmarshalSnapshot(data []byte) (*Snapshot, error) {
	part, rest, err := CutPart(data)
	if err != nil {
		return nil, err
	}
	root, err := ParseRoot(part)
	if err != nil {
		return nil, err
	}
	pages := make([]*Page, len(root.pages))
	for i := range pages {
		if part, rest, err = CutPart(rest); err != nil {
			return nil, err
		}
		if pages[i], err = ParsePage(part); err != nil {
			return nil, err
		}
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes after the last page", ErrSnapshot, len(rest))
	}
	return Assemble(root, pages)
}

// AppendPart appends a root or a page to a pack.
func AppendPart(b, part []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(part))), part...)
}

// CutPart takes the first root or page off a pack. It is a view on the pack.
func CutPart(pack []byte) (part, rest []byte, err error) {
	size, n := binary.Uvarint(pack)
	if n <= 0 || size > uint64(len(pack)-n) || n != len(binary.AppendUvarint(nil, size)) {
		return nil, nil, fmt.Errorf("%w: %w", ErrSnapshot, errCut)
	}
	end := n + int(size)
	return pack[n:end:end], pack[end:], nil
}
