package sampler

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
)

// Limits of a page. A page ends where a name's hash says so, so that shards which are added or removed
// somewhere leave the pages before and after as they were; the limits come in where no name does.
const (
	MaxPageShards = 1 << 13
	MaxPageBytes  = 1 << 18

	minPageShards  = 1 << 9
	pageEnds       = 1 << 11        // of so many names one ends a page
	maxPageSamples = math.MaxUint32 // of a page with more than one shard

	// restart is the number of entries after which one is written out in full: to read a shard, this
	// many are decoded at most.
	restart = 32
)

// PageID names a page by its content: the SHA-256 of its encoding.
type PageID [sha256.Size]byte

func (id PageID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText renders the id as hex digits.
func (id PageID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText reads what MarshalText renders.
func (id *PageID) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(id)) {
		return fmt.Errorf("sampler: %.80q is not the id of a page", text)
	}
	if _, err := hex.Decode(id[:], text); err != nil {
		return fmt.Errorf("sampler: %.80q is not the id of a page: %w", text, err)
	}
	return nil
}

// Page is an immutable run of a snapshot's shards. It keeps its encoding and decodes shards out of it
// when asked: about 10 bytes a shard, where a Shard takes 100.
type Page struct {
	id      PageID
	data    []byte
	shards  int
	samples int64
	each    int64    // samples in every shard, where all have the same number; else -1
	starts  []uint32 // where they differ: number in the page of each shard's first sample
	marks   []uint32 // where in data each entry that is written out in full begins
	ended   bool     // by a name or by the number of shards: nothing could follow in the same page
}

// ParsePage decodes the encoding of a page, which it takes over. What no builder would have written is
// refused: one page has one encoding.
func ParsePage(data []byte) (*Page, error) {
	p := &Page{id: sha256.Sum256(data), data: data}
	if err := p.parse(); err != nil {
		return nil, fmt.Errorf("%w: page %.12s: %w", ErrSnapshot, p.id, err)
	}
	return p, nil
}

func (p *Page) parse() error {
	if len(p.data) > MaxPageBytes {
		return fmt.Errorf("%d bytes, at most %d are possible", len(p.data), MaxPageBytes)
	}
	w, d := newPageWriter(), entryReader{rest: p.data}
	for len(d.rest) > 0 {
		if w.full {
			return fmt.Errorf("goes on after shard %d, which ends it", w.shards-1)
		}
		if w.shards%restart == 0 {
			d.reset()
		}
		if err := d.next(); err != nil {
			return fmt.Errorf("shard %d: %w", w.shards, err)
		}
		at := len(w.data)
		if !w.add(d.name, d.version, d.samples) {
			return fmt.Errorf("shard %d belongs to the next page", w.shards)
		}
		if end := len(p.data) - len(d.rest); !bytes.Equal(w.data[at:], p.data[at:end]) {
			return fmt.Errorf("shard %d is not in canonical form", w.shards-1)
		}
	}
	if w.shards == 0 {
		return errCut
	}
	w.describe(p)
	return nil
}

// ID names the page by its content.
func (p *Page) ID() PageID { return p.id }

// Data is the page's encoding; it must not be changed.
func (p *Page) Data() []byte { return p.data }

// NumShards is the number of shards in the page, 1 to MaxPageShards.
func (p *Page) NumShards() int { return p.shards }

// Samples is the number of samples of its shards.
func (p *Page) Samples() int64 { return p.samples }

// first is the number, in the page, of shard i's first sample.
func (p *Page) first(i int) int64 {
	if p.each >= 0 {
		return int64(i) * p.each
	}
	return int64(p.starts[i])
}

// count is the number of shard i's samples.
func (p *Page) count(i int) int64 {
	switch {
	case p.each >= 0:
		return p.each
	case i+1 < p.shards:
		return int64(p.starts[i+1] - p.starts[i])
	default:
		return p.samples - int64(p.starts[i])
	}
}

// locate finds the shard that holds a sample of the page. Shards of about one size lie about where a
// proportion says; from there the search widens as far as it has to.
func (p *Page) locate(sample int64) (shard int, index int64) {
	if p.each >= 0 {
		shard = int(uint64(sample) / uint64(p.each))
		return shard, sample - int64(shard)*p.each
	}
	x := uint32(sample)
	lo := int(uint64(sample) * uint64(p.shards) / uint64(p.samples))
	hi := lo + 1
	if p.starts[lo] <= x {
		for step := 1; hi < p.shards && p.starts[hi] <= x; step *= 2 {
			lo, hi = hi, min(hi+step, p.shards)
		}
	} else {
		for step := 1; p.starts[lo] > x; step *= 2 {
			lo, hi = max(lo-step, 0), lo
		}
	}
	shard = lastAtMost(p.starts, lo, hi, x)
	return shard, sample - int64(p.starts[shard])
}

// shard decodes shard i.
func (p *Page) shard(i int) Shard {
	var name [128]byte
	d := entryReader{rest: p.data[p.marks[i/restart]:], name: name[:0]}
	for range i%restart + 1 {
		if err := d.next(); err != nil {
			panic(err) // parse has read it
		}
	}
	return Shard{Name: string(d.name), Version: d.version, Samples: d.samples}
}

// pageWriter encodes shards until a page is full.
type pageWriter struct {
	data    []byte
	shards  int
	samples int64
	starts  []uint32
	marks   []uint32
	equal   bool // all shards so far have as many samples as the first
	full    bool

	// The entry before, which the next is told apart from.
	name    []byte
	version uint64
	count   int64
}

func newPageWriter() *pageWriter { return &pageWriter{equal: true} }

// add appends a shard; false where it has to go into the next page, which ends this writer.
func (w *pageWriter) add(name []byte, version uint64, samples int64) bool {
	if w.full || w.shards > 0 && samples > maxPageSamples-w.samples {
		return false
	}
	at := len(w.data)
	if w.shards%restart == 0 {
		w.name, w.version, w.count = w.name[:0], 0, 0
	}
	w.data = appendEntry(w.data, w.name, name, int64(version-w.version), samples-w.count)
	if len(w.data) > MaxPageBytes {
		w.data = w.data[:at]
		return false
	}
	if w.shards%restart == 0 {
		w.marks = append(w.marks, uint32(at))
	}
	w.equal = w.equal && (w.shards == 0 || samples*int64(w.shards) == w.samples)
	w.starts = append(w.starts, uint32(w.samples))
	w.name, w.version, w.count = append(w.name[:0], name...), version, samples
	w.shards, w.samples = w.shards+1, w.samples+samples
	w.full = w.shards == MaxPageShards || w.shards >= minPageShards && endsPage(name)
	return true
}

// describe fills a page in; the writer must not be used afterwards.
func (w *pageWriter) describe(p *Page) {
	p.shards, p.samples, p.ended = w.shards, w.samples, w.full
	p.each, p.marks = -1, fitted(w.marks)
	if w.equal {
		p.each = w.samples / int64(w.shards)
	} else {
		p.starts = fitted(w.starts)
	}
}

// page ends the writer with a page of what was added.
func (w *pageWriter) page() *Page {
	p := &Page{id: sha256.Sum256(w.data), data: fitted(w.data)}
	w.describe(p)
	return p
}

// fitted copies a slice into one of its size: a page lives for long, and appending leaves room.
func fitted[T any](s []T) []T { return append(make([]T, 0, len(s)), s...) }

// endsPage draws the names that end a page.
func endsPage(name []byte) bool {
	h := uint64(0xcbf29ce484222325) // FNV-1a
	for _, c := range name {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return mix(h)%pageEnds == 0
}
