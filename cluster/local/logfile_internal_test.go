package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLogsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.log")
	log, err := openLog(path, 1000)
	require.NoError(t, err)
	for i := range 500 {
		_, err := fmt.Fprintf(log, "line %03d\n", i)
		require.NoError(t, err)
	}
	require.NoError(t, log.Close())
	present, err := os.ReadFile(path)
	require.NoError(t, err)
	before, err := os.ReadFile(path + ".1")
	require.NoError(t, err)
	require.LessOrEqual(t, len(present), 1000)
	require.LessOrEqual(t, len(before), 1000)
	both := string(before) + string(present)
	require.True(t, strings.HasSuffix(both, "line 498\nline 499\n"))
	require.Equal(t, strings.Count(both, "\n")*9, len(both), "no line is cut in two")

	log, err = openLog(path, 1000) // a restart goes on where it was
	require.NoError(t, err)
	_, err = log.Write([]byte("line 500\n"))
	require.NoError(t, err)
	require.NoError(t, log.Close())
	require.Equal(t, "line 499\nline 500", tailOf(path, 2))
}

func TestTailShowsWhyANodePanicked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.log")
	log := "time=1 msg=one\ntime=2 level=ERROR msg=\"no space left on device\"\npanic: no space left on device\n\n" +
		"goroutine 1 [running]:\nmain.main()\n\t/x/main.go:1 +0x1\n" + strings.Repeat("\ngoroutine 2 [select]:\nx.y()\n", 300)
	require.NoError(t, os.WriteFile(path, []byte(log), 0o600))
	require.Equal(t, "time=2 level=ERROR msg=\"no space left on device\"\npanic: no space left on device", tailOf(path, 2))
	require.NoError(t, os.WriteFile(path, []byte(log+"time=3 msg=again\n"), 0o600))
	require.True(t, strings.HasSuffix(tailOf(path, 2), "\ntime=3 msg=again"), "that of an earlier start is passed over")
}
