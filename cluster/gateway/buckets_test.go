package gateway_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
)

func TestBuckets(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Gateways: 2, Targets: 2, Disks: 1})
	other := cluster.NewClient(api.Options{Endpoint: "http://" + cluster.Gateways[1].Addr()})
	for round := range 5 {
		createBucket(t, cluster, "b")
		// At once through another gateway, and another target's eyes.
		object, err := other.PutObject(t.Context(), "b", "x", strings.NewReader("1"), 1, api.PutOptions{})
		require.NoError(t, err)
		list, err := other.Buckets(t.Context())
		require.NoError(t, err)
		require.Len(t, list, 1)
		assert.Equal(t, "b", list[0].Name)
		assert.Equal(t, 1, list[0].Mirror)

		var answer *api.Error
		require.ErrorAs(t, other.DeleteBucket(t.Context(), "b", false), &answer)
		assert.Equal(t, api.CodeNotEmpty, answer.Code)
		_, err = other.StatObject(t.Context(), "b", "x")
		require.NoError(t, err, "a refused deletion changes nothing")
		put(t, cluster, "b", "y", "2")

		if round%2 == 0 {
			require.NoError(t, other.DeleteBucket(t.Context(), "b", true))
		} else {
			require.NoError(t, other.DeleteObject(t.Context(), "b", "x"))
			require.NoError(t, other.DeleteObject(t.Context(), "b", "y"))
			require.NoError(t, other.DeleteBucket(t.Context(), "b", false))
		}
		_, err = cluster.Client.StatObject(t.Context(), "b", object.Name)
		require.ErrorAs(t, err, &answer)
		assert.Equal(t, api.CodeNoBucket, answer.Code)
		report, err := cluster.Client.Fsck(t.Context())
		require.NoError(t, err)
		assert.Zero(t, report.Objects, "objects of a deleted bucket are gone")
	}
}

// An object that is still coming in when its bucket is deleted must not outlive it, nor turn up in a
// later bucket of that name.
func TestBucketDeletedWhileAnObjectComesIn(t *testing.T) {
	cluster := clustertest.Start(t, clustertest.Options{Targets: 1, Disks: 1})
	for _, again := range []bool{false, true} {
		createBucket(t, cluster, "b")
		conn, err := net.Dial("tcp", cluster.Targets[0].Addr())
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
		half := strings.Repeat("x", 4<<20)
		_, err = fmt.Fprintf(conn, "PUT /v1/objects/b/late HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%s", 2*len(half), half)
		require.NoError(t, err)
		cluster.Await("the object begins to be written", func() bool {
			files, err := filepath.Glob(filepath.Join(cluster.Targets[0].Config.DataDirs[0], "tmp", "*"))
			return err == nil && len(files) > 0
		})
		require.NoError(t, cluster.Client.DeleteBucket(t.Context(), "b", true))
		if again {
			createBucket(t, cluster, "b")
		}
		_, err = io.WriteString(conn, half)
		require.NoError(t, err)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		answer, err := io.ReadAll(response.Body)
		require.NoError(t, errors.Join(err, conn.Close()))
		assert.Equal(t, http.StatusNotFound, response.StatusCode)
		assert.Equal(t, api.CodeNoBucket, codeOf(t, answer))
		report, err := cluster.Client.Fsck(t.Context())
		require.NoError(t, err)
		assert.Zero(t, report.Objects)
		if again {
			require.NoError(t, cluster.Client.DeleteBucket(t.Context(), "b", false))
		}
	}
}
