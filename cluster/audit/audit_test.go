package audit_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/audit"
)

func lines(t *testing.T, path string) (list []map[string]any) {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 64<<20)
	for scanner.Scan() {
		var line map[string]any
		require.NoError(t, json.Unmarshal(scanner.Bytes(), &line))
		list = append(list, line)
	}
	return list
}

func TestLinesStayOverRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	for range 2 {
		log, err := audit.Open(dir, "target-1")
		require.NoError(t, err)
		require.NoError(t, log.Record(audit.Entry{
			Action: audit.DropCopy, Object: "ss://b/k", Version: 7, Reason: "moved", Proof: map[string]uint64{"target-2": 7},
		}))
		log.Logger().Info("a stray file", "file", "/disk/data/00/ff")
		require.NoError(t, log.Close())
		require.NoError(t, log.Close())
		require.ErrorIs(t, log.Record(audit.Entry{}), os.ErrClosed)
	}
	got := lines(t, filepath.Join(dir, audit.Name))
	require.Len(t, got, 4)
	assert.Equal(t, "drop_copy", got[0]["action"])
	assert.Equal(t, "target-1", got[0]["node"])
	assert.Equal(t, map[string]any{"target-2": float64(7)}, got[2]["proof"])
	assert.Equal(t, "/disk/data/00/ff", got[3]["file"])
	assert.Equal(t, "target-1", got[3]["node"])
}

func TestAFullLogMakesRoomForAnother(t *testing.T) {
	dir := t.TempDir()
	current := filepath.Join(dir, audit.Name)
	require.NoError(t, os.WriteFile(current, nil, 0o600))
	require.NoError(t, os.Truncate(current, 16<<20))
	for n := 1; n <= 8; n++ {
		require.NoError(t, os.WriteFile(fmt.Sprintf("%s.%d", current, n), []byte{byte('0' + n)}, 0o600))
	}
	log, err := audit.Open(dir, "target-1")
	require.NoError(t, err)
	defer log.Close()
	for version := range uint64(2) {
		require.NoError(t, log.Record(audit.Entry{Version: version + 1}))
	}
	assert.Len(t, lines(t, current), 2)
	info, err := os.Stat(current + ".1")
	require.NoError(t, err)
	assert.EqualValues(t, 16<<20, info.Size())
	for n := 2; n <= 8; n++ {
		content, err := os.ReadFile(fmt.Sprintf("%s.%d", current, n))
		require.NoError(t, err)
		assert.Equal(t, string(rune('0'+n-1)), string(content), "the oldest goes, each of the others is one older")
	}
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, files, 9)
}
