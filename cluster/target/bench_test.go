package target_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// sink is a buffer that a body is read into and forgotten.
type sink []byte

func (s sink) drain(b *testing.B, r io.ReadCloser) (n int64) {
	for {
		m, err := r.Read(s)
		n += int64(m)
		if err != nil {
			require.ErrorIs(b, err, io.EOF)
			require.NoError(b, r.Close())
			return n
		}
	}
}

func BenchmarkGet(b *testing.B) {
	cluster := start(b)
	for _, size := range []int{1 << 10, 110 << 10, 64 << 20} {
		path := fmt.Sprintf("/v1/objects/b/x%d", size)
		putOK(b, cluster, path, pattern(size))
		client := &http.Client{Transport: &http.Transport{ReadBufferSize: 256 << 10, DisableCompression: true}}
		buffer := make(sink, 1<<20)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				response, err := client.Get("http://" + cluster.Targets[0].Addr() + path)
				require.NoError(b, err)
				require.Equal(b, int64(size), buffer.drain(b, response.Body))
			}
		})
	}
}

func BenchmarkPut(b *testing.B) {
	cluster := start(b)
	for _, size := range []int{1 << 10, 64 << 20} {
		data := pattern(size)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			for b.Loop() {
				request, err := http.NewRequestWithContext(b.Context(), "PUT", "http://"+cluster.Targets[0].Addr()+"/v1/objects/b/x", bytes.NewReader(data))
				require.NoError(b, err)
				response, err := http.DefaultClient.Do(request)
				require.NoError(b, err)
				require.Equal(b, http.StatusOK, response.StatusCode)
				_, err = io.Copy(io.Discard, response.Body)
				require.NoError(b, err)
				require.NoError(b, response.Body.Close())
			}
		})
	}
}
