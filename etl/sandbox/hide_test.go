package sandbox_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl/sandbox"
)

// tree makes files that hold their own names.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(name), 0o644))
	}
	return dir
}

func TestOnlyWhatWasGivenIsSeen(t *testing.T) {
	dir := tree(t, "read/a", "read/data/secret", "read/data/shown/b", "write/c", "other/d")
	require.NoError(t, os.Symlink(dir+"/read", dir+"/link"))
	require.NoError(t, os.Chmod(dir+"/write", 0o777))
	script := `cd ` + dir + `
for f in read/a read/data/secret read/data/shown/b write/c other/d link/a; do
	cat $f >/dev/null 2>&1 && echo "sees $f"
done
for d in read read/data read/data/shown write other /tmp /usr /etc; do
	(echo x > $d/new) 2>/dev/null && echo "writes $d"
done
exit 0`
	for _, level := range levels(t) {
		if level == sandbox.None {
			continue
		}
		t.Run(level, func(t *testing.T) {
			text, exit := run(t, level, script, func(s *sandbox.Spec) {
				s.Read = []string{dir + "/read", dir + "/read/data/shown", dir + "/link/a", dir + "/nowhere"}
				s.Write = []string{dir + "/write"}
				s.Hide = []string{dir + "/read/data"}
			})
			require.Equal(t, sandbox.Exit{}, exit)
			want := "sees read/a\nsees read/data/shown/b\nsees write/c\nsees link/a\nwrites write\n"
			if level == sandbox.Strict {
				want += "writes /tmp\n" // its own
			}
			require.Equal(t, want, text)
			require.FileExists(t, dir+"/write/new")
			require.NoError(t, os.Remove(dir+"/write/new"))
		})
	}
}

// An interpreter may lie where only root can go.
func TestProgramBehindAClosedDirectory(t *testing.T) {
	dir := tree(t, "closed/bin/program", "closed/secret")
	require.NoError(t, os.WriteFile(dir+"/closed/bin/program", []byte("#!/bin/sh\necho runs; cat "+dir+"/closed/secret"), 0o755))
	require.NoError(t, os.Chmod(dir+"/closed/bin/program", 0o755))
	require.NoError(t, os.Chmod(dir+"/closed", 0o700))
	for _, level := range levels(t) {
		if level == sandbox.None {
			continue
		}
		t.Run(level, func(t *testing.T) {
			text, _ := run(t, level, "", func(s *sandbox.Spec) {
				s.Path, s.Args, s.Read = dir+"/closed/bin/program", nil, []string{dir + "/closed/bin"}
			})
			require.Contains(t, text, "runs\n")
			require.NotContains(t, text, "closed/secret\n")
		})
	}
}

// What a definition sets in the environment is the program's, not that of what prepares it.
func TestEnvironmentIsTheProgramsAlone(t *testing.T) {
	for _, level := range levels(t) {
		t.Run(level, func(t *testing.T) {
			text, exit := run(t, level, "echo done", func(s *sandbox.Spec) {
				s.Env = append(s.Env, "LD_PRELOAD=/nowhere/evil.so", "GODEBUG=inittrace=1")
			})
			require.Equal(t, sandbox.Exit{}, exit)
			require.Contains(t, text, "done")
			require.NotContains(t, text, "init internal") // the Go runtime's words
		})
	}
}
