package archive

// Split cuts a name into its sample's key and its field, as the members of an archive are; ok is false
// where it has no such parts.
func Split(name string) (key, field string, ok bool) {
	n := keyLength([]byte(name))
	if n == noKey {
		return "", "", false
	}
	return name[:n], name[n+1:], true
}

// Single is the index of an object that is no archive but one sample: its bytes are the only member, named
// as the object. It is nil where the name has no key and field.
func Single(name string, size int64, sum uint64) *Index {
	key, _, ok := Split(name)
	if !ok || checkName([]byte(name)) != "" {
		return nil
	}
	return &Index{
		names: name, ends: []uint32{uint32(len(name))}, keyLen: []uint16{uint16(len(key))}, // bounded by maxName
		offsets: []int64{0}, sizes: []int64{size}, sums: []uint64{sum}, starts: []uint32{0, 1}, maxBytes: size,
	}
}
