package schemes_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/schemes"
)

const module = "github.com/shardstream/shardstream/"

// clients are the libraries that a build without a backend is without.
var clients = map[string][]string{
	"no_s3":    {"github.com/aws/", module + "core/backend/s3"},
	"no_gcs":   {"cloud.google.com/", "google.golang.org/api/", module + "core/backend/gcs"},
	"no_azure": {"github.com/Azure/", "github.com/AzureAD/", module + "core/backend/azure"},
	"no_hdfs":  {"github.com/colinmarc/hdfs", "github.com/jcmturner/", module + "core/backend/hdfs"},
}

// linked are the packages of a build of one of ours.
func linked(t *testing.T, pkg, tags string) string {
	t.Helper()
	command := exec.Command("go", "list", "-deps", "-tags", tags, module+pkg)
	command.Stderr = os.Stderr
	out, err := command.Output()
	require.NoError(t, err)
	return string(out)
}

func TestAll(t *testing.T) {
	set := schemes.All()
	for _, scheme := range []string{backend.S3, backend.GCS, backend.Azure, backend.HDFS, backend.HTTP, backend.HTTPS} {
		require.Contains(t, set, scheme)
	}
	require.NotContains(t, set, backend.Remote, "which is the cluster's own")
	delete(set, backend.S3)
	require.Contains(t, schemes.All(), backend.S3, "a set is the caller's")
}

func TestTagsLeaveClientsOut(t *testing.T) {
	whole := linked(t, "core/backend/schemes", "")
	for tag, libraries := range clients {
		without := linked(t, "core/backend/schemes", tag)
		for _, library := range libraries {
			require.Contains(t, whole, library)
			require.NotContains(t, without, library, tag)
		}
	}
}

// What trainers load has none of it, whatever the build.
func TestLoaderHasNone(t *testing.T) {
	for _, pkg := range []string{"pybind", "loader", "cluster/api"} {
		packages := linked(t, pkg, "")
		require.NotContains(t, packages, module+"core/backend", pkg)
		for _, libraries := range clients {
			for _, library := range libraries {
				require.NotContains(t, packages, library, pkg)
			}
		}
	}
}

func TestMissingScheme(t *testing.T) {
	_, err := backend.Set{}.Open(t.Context(), backend.Config{Address: backend.Address{Scheme: backend.S3, Host: "b"}})
	require.Equal(t, backend.Unsupported, backend.KindOf(err))
	require.ErrorContains(t, err, "this build of shardstream has no s3 backends")
}
