package archive

import (
	"bytes"

	"github.com/zeebo/xxh3"
)

// Indexer makes an Index from an archive that is written to it. It takes memory for the index alone:
// no data is kept, and a member costs no allocation of its own.
type Indexer struct {
	format  Format
	builder builder
	sum     *xxh3.Hasher
	err     *FormatError // sticky

	state state
	at    int64 // of the next byte
	from  int64 // where the header that is being read, or was read last, begins
	left  int64 // bytes to come of a member, extension or gap
	pad   int64 // padding after them
	whole bool  // none of the member's bytes have been seen yet

	head     block // a header in pieces
	fill     int
	name     []byte // scratch for the name of the header at hand
	ext      []byte // data of an extension, while it comes in
	extKind  byte
	pax      paxRecords // for the next member
	longName []byte     // GNU's, for the next member; empty: none
}

// state is what the next byte belongs to.
type state uint8

const (
	inHeader state = iota
	inMember
	inExtension
	inGap // padding, and data of entries that are no members
	atEnd // after a block of zeros: only zeros may follow
)

// NewIndexer begins an archive. For None it takes any bytes and yields an empty index.
func NewIndexer(f Format) *Indexer {
	return &Indexer{format: f, sum: xxh3.New()}
}

// Write takes the next bytes, in any chunking; it keeps none of p. Its only error is a *FormatError.
func (x *Indexer) Write(p []byte) (int, error) {
	if x.format == None {
		return len(p), nil
	}
	if x.err != nil {
		return 0, x.err
	}
	for rest := p; len(rest) > 0; {
		n := x.take(rest)
		if x.err != nil {
			return len(p) - len(rest), x.err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// take takes some of the next bytes, all of which belong to one thing.
func (x *Indexer) take(p []byte) (n int) {
	switch x.state {
	case inHeader:
		n = x.takeHeader(p)
	case inMember:
		n = x.takeMember(p)
	case inExtension:
		n = x.takeExtension(p)
	case inGap:
		n = int(min(x.left, int64(len(p))))
		if x.left -= int64(n); x.left == 0 {
			x.state = inHeader
		}
	case atEnd:
		n = x.takeEnd(p)
	}
	if x.err == nil {
		x.at += int64(n)
	}
	return n
}

// skippable is how many of the next bytes do not matter, where checksums are not asked for.
func (x *Indexer) skippable() int64 {
	switch x.state {
	case inMember:
		return x.left + x.pad
	case inGap:
		return x.left
	default:
		return 0
	}
}

// skip passes over bytes that do not matter: all of them, or as many as the archive has.
func (x *Indexer) skip(n int64) {
	x.at += n
	if n == x.skippable() {
		x.state, x.left = inHeader, 0
	}
}

// Finish ends the archive. An archive that stops early is a *FormatError.
func (x *Indexer) Finish() (*Index, error) {
	switch {
	case x.err != nil:
		return nil, x.err
	case x.format == None || x.state == atEnd:
		return x.builder.index(), nil
	case x.state == inHeader && x.fill == 0:
		x.fail(x.at, "truncated: it stops between two members, with no end-of-archive block")
	case x.state == inHeader:
		x.fail(x.at, "truncated inside a header")
	default:
		x.fail(x.at, "truncated inside a member")
	}
	return nil, x.err
}

func (x *Indexer) fail(offset int64, reason string) {
	x.err = &FormatError{Offset: offset, Reason: reason}
}

func (x *Indexer) takeHeader(p []byte) int {
	if x.fill == 0 {
		x.from = x.at
		if len(p) >= blockSize { // the common case: no copy
			x.header((*block)(p))
			return blockSize
		}
	}
	n := copy(x.head[x.fill:], p)
	if x.fill += n; x.fill == blockSize {
		x.fill = 0
		x.header(&x.head)
	}
	return n
}

var zeroBlock block

// header begins the entry that a header block describes.
func (x *Indexer) header(b *block) {
	if b[0] == 0 && *b == zeroBlock {
		x.state = atEnd
		return
	}
	h, name, refused := parseHeader(b, x.name[:0])
	x.name = name
	if refused != "" {
		x.fail(x.from, refused)
		return
	}
	switch h.kind {
	case typePax, typePaxGlobal, typeLongName, typeLongLink:
		if h.size > maxExtension {
			x.fail(x.from, "extended header of more than 1 MiB")
			return
		}
		x.extKind, x.ext = h.kind, x.ext[:0]
		if x.begin(inExtension, h.size); h.size == 0 {
			x.extension()
		}
	default:
		x.entry(h)
	}
}

// entry begins a member or another entry with a name, to which the extensions before it apply.
func (x *Indexer) entry(h header) {
	if len(x.pax.path) > 0 {
		h.name = x.pax.path
	}
	if len(x.longName) > 0 {
		h.name = x.longName
	}
	if x.pax.hasSize {
		h.size = x.pax.size
	}
	oldDir := h.kind == typeRegOld && bytes.HasSuffix(h.name, []byte("/"))
	switch {
	case x.pax.refused != "":
		x.fail(x.from, x.pax.refused)
	case !bodyless(h.kind) && !sizeOK(h.size):
		x.fail(x.from, "bad size in extended header")
	case h.kind == typeSparse:
		x.fail(x.from, "sparse members are not supported: make the archive without --sparse")
	case bodyless(h.kind):
		x.begin(inGap, 0)
	case (h.kind == typeReg || h.kind == typeRegOld || h.kind == typeContiguous) && !oldDir:
		if refused := x.builder.add(h.name, x.from+blockSize, h.size); refused != "" {
			x.fail(x.from, refused)
			return
		}
		x.whole = true
		if x.begin(inMember, h.size); h.size == 0 {
			x.builder.setSum(xxh3.Hash(nil))
		}
	default: // volume labels, vendors' own: nobody's member
		x.begin(inGap, h.size)
	}
	x.pax.reset()
	x.longName = x.longName[:0]
}

// begin enters the data of an entry.
func (x *Indexer) begin(s state, size int64) {
	x.state, x.left, x.pad = s, size, -size&(blockSize-1)
	if s == inGap {
		x.left, x.pad = x.left+x.pad, 0
	}
	if x.left == 0 {
		x.state = inHeader
	}
}

// end leaves the data of an entry.
func (x *Indexer) end() {
	x.state, x.left = inGap, x.pad
	if x.pad == 0 {
		x.state = inHeader
	}
}

func (x *Indexer) takeMember(p []byte) int {
	n := int(min(x.left, int64(len(p))))
	x.left -= int64(n)
	switch {
	case x.whole && x.left == 0: // all in one chunk: much cheaper than a streaming hash
		x.builder.setSum(xxh3.Hash(p[:n]))
	case x.whole:
		x.whole = false
		x.sum.Reset()
		_, _ = x.sum.Write(p[:n])
	default:
		_, _ = x.sum.Write(p[:n])
		if x.left == 0 {
			x.builder.setSum(x.sum.Sum64())
		}
	}
	if x.left == 0 {
		x.end()
	}
	return n
}

func (x *Indexer) takeExtension(p []byte) int {
	n := int(min(x.left, int64(len(p))))
	x.ext = append(x.ext, p[:n]...)
	if x.left -= int64(n); x.left == 0 {
		x.extension()
		x.end()
	}
	return n
}

// extension applies the extension that was read to the entry to come.
func (x *Indexer) extension() {
	switch x.extKind {
	case typeLongName:
		x.longName = append(x.longName[:0], cString(x.ext)...)
	case typePax:
		if refused := parsePax(x.ext, &x.pax); refused != "" {
			x.fail(x.from, refused)
		}
	case typePaxGlobal:
		if refused := parsePax(x.ext, &x.pax); refused != "" {
			x.fail(x.from, refused)
		} else if len(x.pax.path) > 0 || x.pax.hasSize || x.pax.refused != "" {
			// Readers disagree on what that means.
			x.fail(x.from, "global extended header that sets path or size")
		}
		x.longName = x.longName[:0]
	}
}

// takeEnd checks what follows the end of the archive. Data there would be an archive that was
// appended to this one, which a reader skips without a word.
func (x *Indexer) takeEnd(p []byte) int {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), blockSize)
		if !bytes.Equal(rest[:n], zeroBlock[:n]) {
			at := x.at + int64(len(p)-len(bytes.TrimLeft(rest, "\x00")))
			x.fail(at&^(blockSize-1), "data after the end of the archive: were two archives joined?")
			break
		}
		rest = rest[n:]
	}
	return len(p)
}
