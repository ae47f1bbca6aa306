package sampler

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// The encoding of a root: magic, format version, page count, then for each page its id and, as shortest
// uvarints, the number of its shards, of their samples, and of its bytes. The SHA-256 of that is the
// snapshot's id. One snapshot has one encoding.
const (
	rootMagic     = "SSNR"
	rootFormat    = 2
	minPageInRoot = sha256.Size + 3
)

// ErrSnapshot is wrapped by every error about an encoding that is not sound.
var ErrSnapshot = errors.New("sampler: not a sound snapshot")

// PageInfo is what a root says of a page.
type PageInfo struct {
	ID      PageID
	Shards  int
	Samples int64
	Bytes   int // of its encoding
}

// Root is a snapshot without its shards: the list of its pages. It is immutable.
type Root struct {
	id      [sha256.Size]byte
	data    []byte
	pages   []PageInfo
	shards  starts // of pages, by shard number
	samples starts // and by sample number
}

// ParseRoot decodes the encoding of a root, which it takes over. Memory is bounded by a small multiple
// of len(data).
func ParseRoot(data []byte) (*Root, error) {
	pages, err := parseRoot(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	r, err := newRoot(pages)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if !bytes.Equal(r.data, data) {
		return nil, fmt.Errorf("%w: the root is not in canonical form", ErrSnapshot)
	}
	return r, nil
}

func parseRoot(data []byte) ([]PageInfo, error) {
	if len(data) < len(rootMagic)+2 || string(data[:len(rootMagic)]) != rootMagic {
		return nil, fmt.Errorf("no snapshot header in %d bytes", len(data))
	}
	if f := data[len(rootMagic)]; f != rootFormat {
		return nil, fmt.Errorf("format %d, this software reads format %d", f, rootFormat)
	}
	rest := data[len(rootMagic)+1:]
	n, size := binary.Uvarint(rest)
	if size <= 0 {
		return nil, errCut
	}
	rest = rest[size:]
	if n > uint64(len(rest)/minPageInRoot) {
		return nil, fmt.Errorf("%d pages announced in %d bytes", n, len(rest))
	}
	pages := make([]PageInfo, n)
	for i := range pages {
		p := &pages[i]
		if len(rest) < minPageInRoot {
			return nil, errCut
		}
		rest = rest[copy(p.ID[:], rest):]
		var numbers [3]uint64
		for k, most := range [...]uint64{MaxPageShards, MaxSamples, MaxPageBytes} {
			v, size := binary.Uvarint(rest)
			if size <= 0 || v > most {
				return nil, fmt.Errorf("page %d of %d: %w", i, n, errCut)
			}
			numbers[k], rest = v, rest[size:]
		}
		p.Shards, p.Samples, p.Bytes = int(numbers[0]), int64(numbers[1]), int(numbers[2])
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes after the last page", len(rest))
	}
	return pages, nil
}

// newRoot takes pages over.
func newRoot(pages []PageInfo) (*Root, error) {
	r := &Root{pages: pages}
	shards, samples := make([]int64, len(pages)+1), make([]int64, len(pages)+1)
	data := append(make([]byte, 0, 16+40*len(pages)), rootMagic...)
	data = binary.AppendUvarint(append(data, rootFormat), uint64(len(pages)))
	for i, p := range pages {
		if p.Shards < 1 || p.Bytes < 1 {
			return nil, fmt.Errorf("page %d is empty", i)
		}
		shards[i+1], samples[i+1] = shards[i]+int64(p.Shards), samples[i]+p.Samples
		if shards[i+1] > MaxShards {
			return nil, fmt.Errorf("more than %d shards", MaxShards)
		}
		if samples[i+1] > MaxSamples {
			return nil, fmt.Errorf("more than %d samples", int64(MaxSamples))
		}
		data = append(data, p.ID[:]...)
		for _, v := range [...]int64{int64(p.Shards), p.Samples, int64(p.Bytes)} {
			data = binary.AppendUvarint(data, uint64(v))
		}
	}
	r.data, r.id = data, sha256.Sum256(data)
	r.shards, r.samples = newStarts(shards), newStarts(samples)
	return r, nil
}

// ID is the id of the snapshot: the hex SHA-256 of the root's encoding.
func (r *Root) ID() string { return hex.EncodeToString(r.id[:]) }

// Data is the root's encoding; it must not be changed.
func (r *Root) Data() []byte { return r.data }

// Pages lists the pages in order; it must not be changed. A page may come twice.
func (r *Root) Pages() []PageInfo { return r.pages }

// Samples is the number of samples of all shards.
func (r *Root) Samples() int64 { return r.samples.total() }

// NumShards is the number of shards.
func (r *Root) NumShards() int { return int(r.shards.total()) }

// starts is a rising list of where stretches begin, one more entry for the end, with a guide to search
// it: there are at most as many cells as stretches, so on stretches of about one size a step or two
// is left.
type starts struct {
	list  []int64
	shift uint    // a cell is 1<<shift
	cells []int32 // the stretch in which a cell begins; one more entry is the last stretch
}

func newStarts(list []int64) starts {
	s, n, total := starts{list: list}, len(list)-1, list[len(list)-1]
	if total == 0 {
		return s
	}
	for (total-1)>>s.shift >= int64(n) {
		s.shift++
	}
	s.cells = make([]int32, (total-1)>>s.shift+2)
	at := 0
	for i := range s.cells {
		for at+1 < n && list[at+1] <= int64(i)<<s.shift {
			at++
		}
		s.cells[i] = int32(at)
	}
	return s
}

func (s *starts) total() int64 { return s.list[len(s.list)-1] }

// find is the stretch that holds x, of [0, total).
func (s *starts) find(x int64) int {
	cell := x >> s.shift
	return lastAtMost(s.list, int(s.cells[cell]), int(s.cells[cell+1])+1, x)
}

// lastAtMost is the last i of [lo, hi) with list[i] <= x, in a rising list with list[lo] <= x. Being
// the last, it passes over empty stretches.
func lastAtMost[T int64 | uint32](list []T, lo, hi int, x T) int {
	for hi-lo > 1 {
		if mid := int(uint(lo+hi) >> 1); list[mid] <= x {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}
