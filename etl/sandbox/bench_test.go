package sandbox_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl/sandbox"
)

// BenchmarkStart is a program's whole life at each level: what isolation adds to the start of a worker.
func BenchmarkStart(b *testing.B) {
	report, err := sandbox.Probe(b.Context())
	require.NoError(b, err)
	for _, level := range []string{sandbox.None, sandbox.Landlock, sandbox.Strict} {
		if _, err := report.Level(level); err != nil {
			continue
		}
		b.Run(level, func(b *testing.B) {
			dir := b.TempDir()
			for b.Loop() {
				p, err := sandbox.Start(b.Context(), level, sandbox.Spec{Path: "/bin/true", Dir: dir, Limits: sandbox.Limits{Memory: 1 << 30}})
				require.NoError(b, err)
				require.Zero(b, p.Wait().Code)
				require.NoError(b, p.Close())
			}
		})
	}
}
