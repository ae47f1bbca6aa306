package deploy_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/deploy"
	"github.com/shardstream/shardstream/etl/sandbox"
)

const secret = "the node's secret"

// Whatever kind runs a user's code on the node, it is confined as the node says.
func TestNodeDecidesTheIsolation(t *testing.T) {
	report, err := sandbox.Probe(t.Context())
	require.NoError(t, err)
	data, err := os.MkdirTemp("", "deploy-") // t.TempDir lies below a directory that is closed to others
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	require.NoError(t, os.Chmod(data, 0o755))
	key := filepath.Join(data, "key")
	require.NoError(t, os.WriteFile(key, []byte(secret), 0o644))
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	definitions := map[string]etl.Definition{
		etl.KindCommand: {Name: "spy", Kind: etl.KindCommand, Command: []string{"sh", "-c", fmt.Sprintf("cat %s 2>&1; env", key)}},
		etl.KindFunction: {Name: "spy", Level: etl.LevelObject, Source: fmt.Sprintf(`
import os
def transform(data):
    try:
        return open(%q, "rb").read() + str(dict(os.environ)).encode()
    except OSError as e:
        return str(e) + str(dict(os.environ))
`, key)},
	}
	for _, level := range []string{sandbox.None, sandbox.Landlock, sandbox.Strict} {
		if _, err := report.Level(level); err != nil {
			t.Logf("%s is not tested: %v", level, err)
			continue
		}
		for kind, def := range definitions {
			t.Run(level+" "+kind, func(t *testing.T) {
				def.Isolation, def.Workers = level, 1
				runtime, err := deploy.New(def, deploy.Options{Pool: etl.Options{Dir: t.TempDir(), Isolation: level, Hide: []string{data}}})
				require.NoError(t, err)
				defer func() { require.NoError(t, runtime.Close()) }()
				require.NoError(t, runtime.Prepare(t.Context()))
				require.Equal(t, level, runtime.Health().Isolation)
				output, err := runtime.TransformObject(t.Context(), nil, etl.Object{Bucket: "b", Key: "k"})
				require.NoError(t, err)
				said, err := io.ReadAll(output.Body)
				require.NoError(t, err)
				require.NoError(t, output.Body.Close())
				require.NotContains(t, string(said), "AWS_SECRET")
				if level == sandbox.None {
					require.Contains(t, string(said), secret)
				} else {
					require.NotContains(t, string(said), secret)
				}

				def.Isolation = sandbox.None // is no way around what the node wants
				runtime, err = deploy.New(def, deploy.Options{Pool: etl.Options{Dir: t.TempDir(), Isolation: level}})
				require.NoError(t, err)
				defer func() { require.NoError(t, runtime.Close()) }()
				require.NoError(t, runtime.Prepare(t.Context()))
				require.Equal(t, level, runtime.Health().Isolation)
			})
		}
	}
	t.Run("a program in the node's own directory", func(t *testing.T) {
		def := definitions[etl.KindCommand]
		def.Command = []string{"./sh"}
		runtime, err := deploy.New(def, deploy.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, runtime.Close()) }()
		require.ErrorContains(t, runtime.Prepare(t.Context()), "give its name or its absolute path")
	})
}
