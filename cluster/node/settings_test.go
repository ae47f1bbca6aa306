package node_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/node"
)

func TestReadSettings(t *testing.T) {
	path := filepath.Join(t.TempDir(), "times.yaml")
	for _, c := range []struct {
		name, content string
		want          node.Settings
		fault         string
	}{
		{"empty", "", node.DefaultSettings(), ""},
		{"some", "heal_after: 2s\nscrub_rate: 8MiB\nrebalance_rate: -1\n", func() node.Settings {
			s := node.DefaultSettings()
			s.HealAfter, s.ScrubRate = 2*time.Second, 8<<20
			return s
		}(), ""},
		{"networks", "backend_allow: [10.0.0.0/8, 127.0.0.1]\n", func() node.Settings {
			s := node.DefaultSettings()
			s.BackendAllow = []string{"10.0.0.0/8", "127.0.0.1"}
			return s
		}(), ""},
		{"no network", "backend_allow: [10.0.0.0/8, ten]\n", node.Settings{}, `backend_allow: "ten"`},
		{"misspelt", "heal_afer: 2s\n", node.Settings{}, "heal_afer"},
		{"no size", "scrub_rate: fast\n", node.Settings{}, "not a size"},
		{"no duration", "heal_after: soon\n", node.Settings{}, "soon"},
		{"half a second", "lease_ttl: 500ms\ndelete_grace: -1s\n", node.Settings{}, "whole seconds"},
		{"negative", "delete_grace: -1s\n", node.Settings{}, "delete_grace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(path, []byte(c.content), 0o600))
			got, err := node.ReadSettings(path)
			if c.fault != "" {
				assert.ErrorContains(t, err, c.fault)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.want, got.Complete())
		})
	}
	_, err := node.ReadSettings(filepath.Join(t.TempDir(), "none.yaml"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}
