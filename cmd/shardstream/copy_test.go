package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCopyAndSync(t *testing.T) {
	run := onCluster(t)
	b := "ss://" + bucket(t, run)
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	shard := write("set/train-0.tar", string(tarOf(t, 4)))
	write("set/deep/labels.json", "{}")

	out := ok(t, run("cp", dir+"/set", b+"/v1"))
	require.Contains(t, out, "copy "+dir+"/set/deep/labels.json -> "+b+"/v1/deep/labels.json")
	require.Contains(t, out, "copied 2 files")
	ok(t, run("cp", shard, b+"/one.tar"))
	ok(t, run("cp", b+"/one.tar", dir+"/back/"))
	back, err := os.ReadFile(dir + "/back/one.tar")
	require.NoError(t, err)
	require.Equal(t, tarOf(t, 4), back)

	require.Equal(t, "{}", ok(t, run("cp", b+"/v1/deep/labels.json", "-")))
	piped := cliWith(t, []byte("from a pipe"), []string{"SHARDSTREAM_ENDPOINT=" + shared.endpoint}, "cp", "-", b+"/piped")
	ok(t, piped)
	require.Equal(t, "from a pipe", ok(t, run("cat", b+"/piped")))
	ok(t, run("cp", b+"/piped", "/dev/null"))

	// The same cluster by its address, and a bucket that is made on the way.
	at := strings.TrimPrefix(shared.endpoint, "http://")
	name := strings.TrimPrefix(b, "ss://")
	ok(t, run("cp", b+"/v1/", "ss://"+at+"/"+name+"-2/", "--create-bucket"))
	out = ok(t, run("sync", b+"/v1", "ss://"+name+"-2"))
	require.Contains(t, out, "copied 0 files, 0 B; 2 were there already")

	out = ok(t, run("sync", b+"/v1/", dir+"/new", "--dry-run"))
	require.Contains(t, out, "would copy "+b+"/v1/train-0.tar -> "+dir+"/new/train-0.tar")
	require.Contains(t, out, "would have copied 2 files")
	require.NoDirExists(t, dir+"/new")
	ok(t, run("sync", b+"/v1/", dir+"/new", "--include", "*.tar", "--jobs", "2", "--rate", "100MB"))
	write("new/extra", "x")
	lines := strings.Split(strings.TrimSpace(ok(t, run("sync", b+"/v1/", dir+"/new", "--delete", "--json"))), "\n")
	require.Len(t, lines, 4)
	var last struct {
		Totals struct{ Copied, Skipped, Deleted, Failed, Bytes int64 }
	}
	require.NoError(t, json.Unmarshal([]byte(lines[3]), &last))
	require.EqualValues(t, 1, last.Totals.Copied)
	require.EqualValues(t, 1, last.Totals.Skipped)
	require.EqualValues(t, 1, last.Totals.Deleted)
	require.NoFileExists(t, dir+"/new/extra")

	r := run("sync", b+"/nothing/", dir+"/new", "--delete")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "--force deletes all 2 there")
	r = run("cp", b+"/v1/", "ss://"+at+"/"+name+"/v1/below/")
	require.Equal(t, exitUsage, r.code)
	require.Contains(t, r.err, "overlap")

	write("set/torn.tar", string(tarOf(t, 4)[:700]))
	r = run("cp", dir+"/set", b+"/v3/", "--quiet")
	require.Equal(t, exitFailed, r.code)
	require.Empty(t, r.out)
	require.Contains(t, r.err, "torn.tar")
	require.Contains(t, r.err, "1 of 3 files failed")
	require.Contains(t, ok(t, run("ls", b+"/v3/")), "train-0.tar")
}

func TestCopyWithoutACluster(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/file", []byte("content"), 0o600))
	require.NoError(t, os.Mkdir(dir+"/folder", 0o700))
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"cp DIR/file", exitUsage, "2 arg"},
		{"cp DIR/file DIR/file", exitUsage, "same file"},
		{"cp DIR DIR/folder", exitUsage, "overlap"},
		{"cp DIR/folder DIR/file", exitUsage, "is a file"},
		{"cp DIR/none DIR/new", exitFailed, "no such file"},
		{"cp DIR/none-* DIR/new", exitFailed, "matches no file"},
		{"cp DIR/file DIR/new --jobs 0", exitUsage, "--jobs"},
		{"cp DIR/file DIR/new --rate fast", exitUsage, "size"},
		{"cp DIR/file DIR/new --include [", exitUsage, "pattern"},
		{"cp - DIR/folder/", exitUsage, "stdin has no name"},
		{"cp - DIR/file DIR/folder/", exitUsage, "stdin"},
		{"cp DIR -", exitUsage, "one file"},
		{"cp ss:// DIR", exitUsage, "names no bucket"},
		{"cp ss://127.0.0.1:9/ DIR", exitUsage, "names no bucket"},
		{"cp ss://127.0.0.1:9/b/k DIR", exitFailed, "127.0.0.1:9"},
		{"cp ftp://x/y DIR", exitUsage, "s3://"},
		{"cp s3://user:hidden42@bucket/x DIR", exitUsage, "credentials"},
		{"sync DIR/file DIR/new", exitUsage, "is a file"},
		{"sync DIR/none DIR/new", exitFailed, "no such file"},
		{"sync - DIR/new", exitUsage, "cp"},
		{"sync DIR/folder DIR/folder", exitUsage, "overlap"},
		{"sync s3://b/*.tar DIR/new", exitUsage, "--include"},
		{"sync DIR/folder DIR/new --force", exitUsage, "--delete"},
		{"sync DIR/folder DIR/new --ca DIR/none", exitFailed, "no such file"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			r := cli(t, strings.Fields(strings.ReplaceAll(c.args, "DIR", dir))...)
			require.Equal(t, c.code, r.code, "%s%s", r.out, r.err)
			require.Contains(t, r.err, c.says)
			require.NotContains(t, r.err, "hidden42")
			require.Equal(t, 1, strings.Count(r.err, "\n"), "an error is one line: %s", r.err)
		})
	}
}

// TestTokensStayAtHome: another cluster gets no token of the user's own.
func TestTokensStayAtHome(t *testing.T) {
	seen := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Authorization")
		http.Error(w, "no", http.StatusNotFound)
	}))
	defer server.Close()
	at := strings.TrimPrefix(server.URL, "http://")
	r := cliWith(t, nil, []string{"SHARDSTREAM_TOKEN=mine"}, "cp", "ss://"+at+"/bucket/key", t.TempDir())
	require.Equal(t, exitFailed, r.code)
	require.Empty(t, <-seen)
}

// TestCtrlCLeavesNothingHalf interrupts a copy, and takes it up again.
func TestCtrlCLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	content := strings.Repeat("0123456789abcdef", 1<<20)
	require.NoError(t, os.MkdirAll(dir+"/from", 0o700))
	require.NoError(t, os.WriteFile(dir+"/from/a", []byte("small"), 0o600))
	require.NoError(t, os.WriteFile(dir+"/from/large", []byte(content), 0o600))
	program, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), program, "sync", dir+"/from", dir+"/to", "--rate", "1MB", "--jobs", "1")
	command.Env = append(os.Environ(), asCommand+"=1")
	var errs strings.Builder
	command.Stdout, command.Stderr = io.Discard, &errs
	require.NoError(t, command.Start())
	part := func() string {
		found, _ := filepath.Glob(dir + "/to/.shardstream-*.part")
		if len(found) == 0 {
			return ""
		}
		return found[0]
	}
	require.Eventually(t, func() bool {
		info, err := os.Stat(part())
		return err == nil && info.Size() > 0
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	require.Error(t, command.Wait())
	require.Equal(t, exitFailed, command.ProcessState.ExitCode())
	require.Equal(t, "shardstream: interrupted\n", errs.String())
	require.NoFileExists(t, dir+"/to/large")
	require.FileExists(t, dir+"/to/a")

	out := ok(t, cli(t, "sync", dir+"/from", dir+"/to"))
	require.Contains(t, out, "copied 1 file,")
	require.Contains(t, out, "1 were there already")
	copied, err := os.ReadFile(dir + "/to/large")
	require.NoError(t, err)
	require.True(t, content == string(copied))
	require.Empty(t, part())
}
