package faults

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// randomBytes are n bytes that follow from the seed.
func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	source := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(source.Uint32())
	}
	return b
}

// shard is a tar of samples with two fields each, of which the bin field has size bytes.
func shard(t *testing.T, seed uint64, samples, size int) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	add := func(name string, content []byte) {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write(content)
		require.NoError(t, err)
	}
	for i := range samples {
		add(fmt.Sprintf("%06d.bin", i), randomBytes(seed+uint64(i), size))
		add(fmt.Sprintf("%06d.cls", i), fmt.Appendf(nil, "%d", i%10))
	}
	require.NoError(t, w.Close())
	return buffer.Bytes()
}
