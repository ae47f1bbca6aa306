package etl

import (
	"math/bits"
	"sync"
)

// Objects come and go at the same sizes: fresh memory for each would cost more than copying it.
const (
	leastBuffer = 14 // log2 of the sizes that are kept
	mostBuffer  = 20
)

var buffers [mostBuffer - leastBuffer + 1]sync.Pool

// takeBuffer returns memory for n bytes, with anything in it.
func takeBuffer(n int64) []byte {
	if n == 0 || n > 1<<mostBuffer {
		return make([]byte, n)
	}
	class := max(leastBuffer, bits.Len64(uint64(n-1)))
	if kept, ok := buffers[class-leastBuffer].Get().(*[]byte); ok {
		return (*kept)[:n]
	}
	return make([]byte, n, 1<<class)
}

// giveBuffer takes memory back that takeBuffer returned and that nothing refers to any more.
func giveBuffer(b []byte) {
	size := cap(b)
	class := bits.Len64(uint64(size)) - 1
	if class < leastBuffer || class > mostBuffer || size != 1<<class {
		return
	}
	b = b[:size]
	buffers[class-leastBuffer].Put(&b)
}
