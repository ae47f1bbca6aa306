package api_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = source.Read(b)
	return b
}

func put(t testing.TB, c *api.Client, bucket, key string, data []byte) api.Object {
	t.Helper()
	object, err := c.PutObject(t.Context(), bucket, key, bytes.NewReader(data), int64(len(data)), api.PutOptions{})
	require.NoError(t, err)
	return object
}

func get(t testing.TB, c *api.Client, bucket, key string, o api.GetOptions) []byte {
	t.Helper()
	r, err := c.GetObject(t.Context(), bucket, key, o)
	require.NoError(t, err)
	defer func() { assert.NoError(t, r.Close()) }()
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return data
}

func bucket(t testing.TB, c *api.Client, name string) {
	t.Helper()
	_, err := c.CreateBucket(t.Context(), name)
	require.NoError(t, err)
}

func TestPutAndGet(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{})
	client := cluster.Client
	bucket(t, client, "train")
	for i, size := range []int{0, 1, 100_000, 4 << 20, 4<<20 + 1, 9_000_000} {
		key := fmt.Sprintf("a dir/übung-%d.bin", i)
		data := randomBytes(uint64(i), size)
		object := put(t, client, "train", key, data)
		assert.Equal(t, int64(size), object.Size)
		assert.True(t, bytes.Equal(data, get(t, client, "train", key, api.GetOptions{})), "%d bytes", size)
		stat, err := client.StatObject(t.Context(), "train", key)
		require.NoError(t, err)
		assert.Equal(t, object.ETag, stat.ETag)
		assert.Equal(t, object.XXH3, stat.XXH3)
		assert.Equal(t, object.Size, stat.Size)
		require.NoError(t, client.DeleteObject(t.Context(), "train", key))
		_, err = client.StatObject(t.Context(), "train", key)
		var answer *api.Error
		require.ErrorAs(t, err, &answer)
		assert.Equal(t, api.CodeNotFound, answer.Code)
	}
}
