package archive

import (
	"bytes"
	"fmt"

	"github.com/zeebo/xxh3"
)

// columns hold members that are being gathered: an arena of names beside flat arrays, so that a
// member costs no allocation of its own.
type columns struct {
	names   []byte
	ends    []uint32
	offsets []int64
	sizes   []int64
	sums    []uint64
	table   nameTable // of names: a name may come once
}

func (c *columns) name(m int) []byte {
	var from uint32
	if m > 0 {
		from = c.ends[m-1]
	}
	return c.names[from:c.ends[m]]
}

// add takes a member; false: the name is there already.
func (c *columns) add(name []byte, offset, size int64) bool {
	hash := xxh3.Hash(name)
	if c.table.find(hash, func(i int) bool { return bytes.Equal(c.name(i), name) }) >= 0 {
		return false
	}
	c.names = append(c.names, name...)
	c.ends = append(c.ends, uint32(len(c.names))) // bounded by maxNames
	c.offsets = append(c.offsets, offset)
	c.sizes = append(c.sizes, size)
	c.sums = append(c.sums, 0)
	if c.table.full() {
		c.table.rebuild(len(c.ends), func(i int) uint64 { return xxh3.Hash(c.name(i)) })
	} else {
		c.table.add(hash, len(c.ends)-1)
	}
	return true
}

// builder groups members into samples as they come. Members of no sample are gathered apart.
type builder struct {
	members columns
	keyLen  []uint16
	starts  []uint32  // first member of each sample
	keys    nameTable // of samples, by key: a sample may not come back after another one
	loose   columns
	last    *columns // where the last member went
}

func (b *builder) key(sample int) []byte {
	m := int(b.starts[sample])
	return b.members.name(m)[:b.keyLen[m]]
}

// add takes a member and checks that its name is allowed where it stands. It says why not, or "".
func (b *builder) add(name []byte, offset, size int64) (refused string) {
	if reason := checkName(name); reason != "" {
		return reason
	}
	if len(b.members.ends)+len(b.loose.ends) >= maxMembers {
		return fmt.Sprintf("more than %d members", maxMembers)
	}
	if len(b.members.names)+len(b.loose.names)+len(name) > maxNames {
		return fmt.Sprintf("more than %d bytes of member names", int64(maxNames))
	}
	keyLen := keyLength(name)
	if keyLen == noKey {
		b.last = &b.loose
		if !b.loose.add(name, offset, size) {
			return fmt.Sprintf("member %q comes twice", name)
		}
		return ""
	}
	b.last = &b.members
	key := name[:keyLen]
	fresh := len(b.starts) == 0 || !bytes.Equal(b.key(len(b.starts)-1), key)
	var hash uint64
	if fresh {
		hash = xxh3.Hash(key)
		if b.keys.find(hash, func(i int) bool { return bytes.Equal(b.key(i), key) }) >= 0 {
			return fmt.Sprintf("sample %q comes back after another one: its members must stand together, "+
				"as in an archive sorted by name", key)
		}
	}
	if !b.members.add(name, offset, size) {
		return fmt.Sprintf("member %q comes twice", name)
	}
	b.keyLen = append(b.keyLen, uint16(keyLen)) // bounded by maxName
	if fresh {
		b.startSample(hash)
	}
	return ""
}

func (b *builder) startSample(hash uint64) {
	b.starts = append(b.starts, uint32(len(b.members.ends)-1)) // bounded by maxMembers
	if b.keys.full() {
		b.keys.rebuild(len(b.starts), func(i int) uint64 { return xxh3.Hash(b.key(i)) })
	} else {
		b.keys.add(hash, len(b.starts)-1)
	}
}

// setSum gives the last member its checksum, once its bytes are known.
func (b *builder) setSum(sum uint64) { b.last.sums[len(b.last.sums)-1] = sum }

// index ends the building; the builder is spent.
func (b *builder) index() *Index {
	c, table := b.members, b.members.table
	for range b.loose.ends {
		b.keyLen = append(b.keyLen, noKey)
	}
	samples := b.starts
	if len(samples) > 0 {
		samples = append(samples, uint32(len(c.ends))) // bounded by maxMembers
	}
	if len(b.loose.ends) > 0 {
		base := uint32(len(c.names)) // bounded by maxNames
		c.names = append(c.names, b.loose.names...)
		for _, end := range b.loose.ends {
			c.ends = append(c.ends, base+end)
		}
		c.offsets = append(c.offsets, b.loose.offsets...)
		c.sizes = append(c.sizes, b.loose.sizes...)
		c.sums = append(c.sums, b.loose.sums...)
		table = nameTable{}
	}
	x := &Index{
		names: string(c.names), ends: c.ends, keyLen: b.keyLen, offsets: c.offsets, sizes: c.sizes,
		sums: c.sums, starts: samples, table: table,
	}
	for s := range x.NumSamples() {
		x.maxBytes = max(x.maxBytes, x.SampleSize(s))
	}
	return x
}

// keyLength is the length of a name's key: up to the first dot of its base name; noKey if it has none.
func keyLength(name []byte) int {
	base := bytes.LastIndexByte(name, '/') + 1
	if dot := bytes.IndexByte(name[base:], '.'); dot > 0 {
		return base + dot
	}
	return noKey
}

// checkName says why a member name is refused, or "".
func checkName(name []byte) string {
	switch {
	case len(name) == 0:
		return "a member has no name"
	case len(name) > maxName:
		return fmt.Sprintf("member name of %d bytes; %d are allowed", len(name), maxName)
	case name[0] == '/':
		return fmt.Sprintf("member name %q is absolute", name)
	case name[len(name)-1] == '/':
		return fmt.Sprintf("member name %q names a directory, but it is a file", name)
	case bytes.IndexByte(name, 0) >= 0:
		return fmt.Sprintf("member name %q has a NUL byte", name)
	case bytes.Contains(name, dotDot) && hasDotDot(name):
		return fmt.Sprintf("member name %q leads out of its directory", name)
	}
	return ""
}

var dotDot = []byte("..")

// hasDotDot looks for a path segment "..".
func hasDotDot(name []byte) bool {
	for seg := range bytes.SplitSeq(name, []byte("/")) {
		if bytes.Equal(seg, dotDot) {
			return true
		}
	}
	return false
}
