// Package backends holds buckets with backends to their promises, in front of the real servers of each kind: what is read,
// listed and written, and what happens when the servers fail.
package backends

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

func TestMain(m *testing.M) { os.Exit(serverstest.Main(m)) }

// bytesOf are random bytes, the same for the same seed.
func bytesOf(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}
