package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// shared is one cluster for all tests of the commands; TestMain takes it down.
var shared struct {
	once     sync.Once
	dir      string
	endpoint string
	err      error
}

// onCluster brings up the shared cluster and returns a way to run commands on it.
func onCluster(t *testing.T) func(args ...string) result {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "shardstream-cli-*"); shared.err != nil {
			return
		}
		started := time.Now()
		r := cli(t, "up", "--detach", "--json", "--targets", "2", "--disks", "2", "--port", "0", "--dir", shared.dir,
			"--backend-allow", "127.0.0.0/8")
		var report struct{ Endpoint string }
		if r.code != exitOK {
			shared.err = fmt.Errorf("up: %s", r.err)
		} else if shared.err = json.Unmarshal([]byte(r.out), &report); shared.err == nil {
			shared.endpoint = report.Endpoint
		}
		t.Logf("up to ready: %v", time.Since(started).Round(time.Millisecond))
	})
	require.NoError(t, shared.err)
	return func(args ...string) result {
		t.Helper()
		return cliWith(t, nil, []string{"SHARDSTREAM_ENDPOINT=" + shared.endpoint}, args...)
	}
}

// takeDown ends the shared cluster, if there is one, and returns 1 where its nodes reported a data
// race (the test binary is their program too).
func takeDown() int {
	if shared.dir == "" {
		return 0
	}
	program, _ := os.Executable()
	down := exec.CommandContext(context.Background(), program, "down", "--dir", shared.dir)
	down.Env = append(os.Environ(), asCommand+"=1")
	out, err := down.CombinedOutput()
	code := 0
	if err != nil {
		fmt.Fprintf(os.Stderr, "down: %v\n%s", err, out)
		code = 1
	}
	logs, _ := filepath.Glob(filepath.Join(shared.dir, "logs", "*.log"))
	for _, path := range logs {
		content, _ := os.ReadFile(path)
		if at := bytes.Index(content, []byte("WARNING: DATA RACE")); at >= 0 {
			fmt.Fprintf(os.Stderr, "%s:\n%s", path, content[at:])
			code = 1
		}
	}
	_ = os.RemoveAll(shared.dir)
	return code
}

// bucket makes a bucket for one test.
func bucket(t *testing.T, run func(...string) result) string {
	t.Helper()
	name := "b-" + strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))
	r := run("bucket", "create", name)
	require.Zero(t, r.code, r.err)
	return name
}

func ok(t *testing.T, r result) string {
	t.Helper()
	require.Zero(t, r.code, "%s%s", r.out, r.err)
	return r.out
}

func document(t *testing.T, r result) map[string]any {
	t.Helper()
	var document map[string]any
	require.NoError(t, json.Unmarshal([]byte(ok(t, r)), &document), r.out)
	return document
}

func tarOf(t *testing.T, samples int) []byte {
	t.Helper()
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for i := range samples {
		for _, extension := range []string{"cls", "png"} {
			content := bytes.Repeat([]byte{byte(i)}, 100+i)
			require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%04d.%s", i, extension), Mode: 0o644, Size: int64(len(content))}))
			_, err := w.Write(content)
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return buffer.Bytes()
}

func TestPutAndGet(t *testing.T) {
	run := onCluster(t)
	b := bucket(t, run)
	dir := t.TempDir()
	for i := range 3 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("train-%d.tar", i)), tarOf(t, 4+i), 0o600))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sub", "empty file"), nil, 0o600))

	out := ok(t, run("put", dir, "ss://"+b+"/set/"))
	require.Contains(t, out, "ss://"+b+"/set/train-2.tar\t")
	require.Contains(t, out, "stored 4 objects")
	ok(t, run("put", filepath.Join(dir, "train-*.tar"), "ss://"+b))
	ok(t, run("put", filepath.Join(dir, "train-0.tar"), "ss://"+b+"/renamed"))
	stored := document(t, cliWith(t, []byte("from a pipe"), []string{"SHARDSTREAM_ENDPOINT=" + shared.endpoint}, "put", "-", "ss://"+b+"/piped", "--json"))
	require.Len(t, stored["objects"], 1)

	require.Equal(t, "from a pipe", ok(t, run("cat", "ss://"+b+"/piped")))
	require.Equal(t, "pipe", ok(t, run("cat", "ss://"+b+"/piped", "--range", "7-10")))
	require.Equal(t, "pipe", ok(t, run("cat", "ss://"+b+"/piped", "--range", "7-")))
	require.Equal(t, string(bytes.Repeat([]byte{3}, 103)), ok(t, run("cat", "ss://"+b+"/train-0.tar", "--member", "0003.cls")))
	require.Equal(t, string(tarOf(t, 4)), ok(t, run("get", "ss://"+b+"/renamed", "-")))

	back := t.TempDir()
	ok(t, run("get", "ss://"+b+"/set/", back))
	for _, name := range []string{"train-0.tar", "train-1.tar", "train-2.tar", "sub/empty file"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(back, name))
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	ok(t, run("get", "ss://"+b+"/train-{0..1}.tar", filepath.Join(back, "two")))
	ok(t, run("get", "ss://"+b+"/piped", filepath.Join(back, "as-this")))
	ok(t, run("get", "ss://"+b+"/train-0.tar", back+"/", "--member", "0001.cls"))
	for _, name := range []string{"two/train-0.tar", "two/train-1.tar", "as-this", "0001.cls"} {
		require.FileExists(t, filepath.Join(back, name))
	}
	left, err := filepath.Glob(filepath.Join(back, ".*"))
	require.NoError(t, err)
	require.Empty(t, left, "unfinished files are left")

	list := document(t, run("ls", "ss://"+b+"/train-*.tar", "--json"))["objects"].([]any)
	require.Len(t, list, 3)
	first := list[0].(map[string]any)
	for _, key := range []string{"bucket", "name", "size", "version", "xxh3", "crc32", "etag", "created", "archive", "samples"} {
		require.Contains(t, first, key)
	}
	require.EqualValues(t, 4, first["samples"])
	require.Contains(t, ok(t, run("ls", "ss://"+b+"/set/")), "ss://"+b+"/set/sub/empty file")
	require.Equal(t, []any{}, document(t, run("ls", "ss://"+b+"/nothing-here", "--json"))["objects"])

	ok(t, run("rm", "ss://"+b+"/train-{0..1}.tar", "ss://"+b+"/piped"))
	ok(t, run("rm", "--recursive", "ss://"+b+"/set/"))
	require.Len(t, document(t, run("ls", "ss://"+b, "--json"))["objects"], 2)
	r := run("bucket", "rm", b)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "--force")
	ok(t, run("bucket", "rm", b, "--force"))
}

func TestBadInput(t *testing.T) {
	run := onCluster(t)
	b := bucket(t, run)
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	file := write("file", []byte("content"))
	ok(t, run("put", file, "ss://"+b+"/file"))
	shard := tarOf(t, 10)
	ok(t, run("put", write("shard.tar", shard), "ss://"+b+"/"))
	truncated, garbage := write("truncated.tar", shard[:len(shard)/2]), write("garbage.tar", bytes.Repeat([]byte("garbage!"), 1000))
	twice := write("twice.tar", append(append([]byte{}, shard[:len(shard)-1024]...), shard...))

	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"dots":             {[]string{"put", file, "ss://" + b + "/../up"}, "bad_name"},
		"inner dots":       {[]string{"put", file, "ss://" + b + "/a/../../up"}, "bad_name"},
		"long name":        {[]string{"put", file, "ss://" + b + "/" + strings.Repeat("x", 2000)}, "bad_name"},
		"unknown bucket":   {[]string{"put", file, "ss://unknown/file"}, "shardstream bucket create unknown"},
		"bad bucket":       {[]string{"bucket", "create", "No/Bucket"}, "bad_name"},
		"bucket twice":     {[]string{"bucket", "create", b}, "already_exists"},
		"truncated tar":    {[]string{"put", truncated, "ss://" + b + "/"}, "bad_archive"},
		"garbage tar":      {[]string{"put", garbage, "ss://" + b + "/"}, "bad_archive"},
		"keys come back":   {[]string{"put", twice, "ss://" + b + "/"}, "bad_archive"},
		"no object":        {[]string{"cat", "ss://" + b + "/missing"}, "not_found"},
		"no member":        {[]string{"cat", "ss://" + b + "/file", "--member", "x"}, "ss://" + b + "/file"},
		"past the end":     {[]string{"cat", "ss://" + b + "/file", "--range", "100-200"}, "range"},
		"get no object":    {[]string{"get", "ss://" + b + "/missing", dir}, "not_found"},
		"pattern of none":  {[]string{"get", "ss://" + b + "/none-*", dir}, "matches no object"},
		"ls no bucket":     {[]string{"ls", "ss://unknown/"}, "no_such_bucket"},
		"rm no object":     {[]string{"rm", "ss://" + b + "/missing"}, "not_found"},
		"locate no object": {[]string{"object", "locate", "ss://" + b + "/missing"}, "missing"},
		"exists":           {[]string{"put", file, "ss://" + b + "/file", "--no-clobber"}, "precondition"},
		"no etl":           {[]string{"etl", "show", "missing"}, "no_such_etl"},
		"stream no match":  {[]string{"stream", "ss://" + b + "/none-*.tar"}, "no_match"},
		"explain no match": {[]string{"stream", "explain", "ss://" + b + "/none-*.tar", "--batch", "99999"}, "no_match"},
		"stream no etl":    {[]string{"stream", "ss://" + b + "/*", "--etl", "missing"}, "no_such_etl"},
		"stream no chain":  {[]string{"stream", "ss://" + b + "/*", "--etl", "missing,gone", "--etl-args", `[{"size": 1}, null]`}, "no_such_etl"},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(c.args...)
			require.Equal(t, exitFailed, r.code, "%s%s", r.out, r.err)
			require.Contains(t, r.err, c.says)
			require.Empty(t, r.out)
			require.Equal(t, 1, strings.Count(r.err, "\n"), r.err)
		})
	}
	require.Len(t, document(t, run("ls", "ss://"+b, "--json"))["objects"], 2, "nothing half-done is left")
	ok(t, run("put", truncated, "ss://"+b+"/opaque.tar", "--opaque"))
}

func TestPutGoesOnAfterABadFile(t *testing.T) {
	run := onCluster(t)
	b := bucket(t, run)
	dir := t.TempDir()
	for i := range 5 {
		content := tarOf(t, 5)
		if i == 2 {
			content = content[:1000]
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.tar", i)), content, 0o600))
	}
	r := run("put", dir, "ss://"+b)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "2.tar: ")
	require.Contains(t, r.err, "1 of 5 objects were not stored")
	require.Len(t, document(t, run("ls", "ss://"+b, "--json"))["objects"], 4)
}

func TestCreateBucketOnPut(t *testing.T) {
	run := onCluster(t)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	ok(t, run("put", file, "ss://made-by-put/", "--create-bucket"))
	ok(t, run("put", file, "ss://made-by-put/", "--create-bucket"))
	ok(t, run("bucket", "create", "made-by-put", "--if-missing"))
	require.Contains(t, ok(t, run("ls")), "made-by-put")
}

func TestStatusJSON(t *testing.T) {
	run := onCluster(t)
	var status map[string]any
	require.Eventually(t, func() bool { // targets look after each bucket that a test makes
		status = document(t, run("status", "--json"))
		return status["rebalance"].(map[string]any)["state"] == "idle"
	}, time.Minute, 50*time.Millisecond)
	require.Equal(t, "ok", status["state"])
	require.Equal(t, shared.endpoint, status["endpoint"])
	nodes := status["nodes"].([]any)
	require.Len(t, nodes, 3)
	for _, entry := range nodes {
		node := entry.(map[string]any)
		for _, key := range []string{"id", "role", "state", "addr", "pid"} {
			require.Contains(t, node, key)
		}
		if node["role"] != "target" {
			continue
		}
		disks := node["disks"].([]any)
		require.Len(t, disks, 2)
		for i, entry := range disks {
			disk := entry.(map[string]any)
			require.Equal(t, fmt.Sprintf("disk-%d", i+1), disk["id"])
			require.Equal(t, filepath.Join(shared.dir, "data", node["id"].(string), fmt.Sprintf("disk-%d", i+1)), disk["path"])
			require.Equal(t, "ok", disk["state"])
			require.Positive(t, disk["capacity"])
		}
	}
	require.Len(t, document(t, run("node", "ls", "--json"))["nodes"], 3)
	require.Contains(t, ok(t, run("status")), "target-2")
}

func TestLocateAndFsckJSON(t *testing.T) {
	run := onCluster(t)
	b := bucket(t, run)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("somewhere"), 0o600))
	ok(t, run("put", file, "ss://"+b+"/file"))
	location := document(t, run("object", "locate", "ss://"+b+"/file", "--json"))
	require.Equal(t, "ss://"+b+"/file", location["object"])
	copies := location["copies"].([]any)
	require.Len(t, copies, 1)
	copied := copies[0].(map[string]any)
	require.Equal(t, "whole", copied["kind"])
	require.Contains(t, copied["node"], "target-")
	require.Contains(t, copied["disk"], "disk-")
	files := copied["files"].([]any)
	require.Len(t, files, 1)
	content, err := os.ReadFile(files[0].(string))
	require.NoError(t, err)
	require.Contains(t, string(content), "somewhere")

	report := document(t, run("fsck", "--json"))
	require.Positive(t, report["objects"])
	for _, key := range []string{"corrupt", "missing", "stray"} {
		require.Equal(t, []any{}, report[key])
	}
}

func TestDatasetAndStream(t *testing.T) {
	run := onCluster(t)
	b := bucket(t, run)
	dir := t.TempDir()
	for i := range 3 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.tar", i)), tarOf(t, 20), 0o600))
	}
	ok(t, run("put", dir, "ss://"+b))
	d := document(t, run("dataset", "inspect", "ss://"+b+"/*.tar", "--json"))
	require.EqualValues(t, 3, d["shards"])
	require.EqualValues(t, 60, d["samples"])
	first := d["first"].(map[string]any)
	require.Equal(t, "0000", first["key"])
	require.Equal(t, []any{map[string]any{"name": "cls", "size": 100.0}, map[string]any{"name": "png", "size": 100.0}}, first["fields"])
	require.Contains(t, ok(t, run("dataset", "inspect", "ss://"+b+"/*.tar")), "png")

	epochs := document(t, run("stream", "ss://"+b+"/*.tar", "--batch-size", "16", "--epochs", "2", "--json"))["epochs"].([]any)
	require.Len(t, epochs, 2)
	for _, entry := range epochs {
		epoch := entry.(map[string]any)
		require.EqualValues(t, 60, epoch["samples"])
		require.EqualValues(t, 4, epoch["batches"])
	}
	require.Contains(t, ok(t, run("stream", "ss://"+b+"/", "--batch-size", "16", "--batches", "2")), "in 2 batches")
	padded := ok(t, run("stream", "ss://"+b+"/", "--batch-size", "16", "--pad", "--on-error", "skip", "--max-errors", "1%"))
	require.Contains(t, padded, "60 samples in 4 batches")

	e := document(t, run("stream", "explain", "ss://"+b+"/*.tar", "--batch-size", "16", "--epoch", "3", "--batch", "3", "--json"))
	require.EqualValues(t, 48, e["position"])
	require.Len(t, e["samples"], 12)
	table := ok(t, run("stream", "explain", "ss://"+b+"/*.tar", "--shuffle", "none", "--position", "25", "--count", "2"))
	require.Contains(t, table, "positions 25 to 26")
	require.Regexp(t, `(?m)^25 +25 +0005 +ss://`+b+`/1.tar +5 +\d+ +target-\d$`, table)
}

func TestStreamOfAMixture(t *testing.T) {
	run := onCluster(t)
	b := bucket(t, run)
	dir := t.TempDir()
	for i := range 2 {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.tar", i)), tarOf(t, 20), 0o600))
	}
	ok(t, run("put", dir, "ss://"+b))
	mix := []string{"stream", "--mix", "ss://" + b + "/0.tar=3", "--mix", "ss://" + b + "/1.tar=1", "--batch-size", "16"}
	require.Contains(t, ok(t, run(append(mix, "--mix-samples", "100", "--interleave", "stratified", "--shuffle", "none")...)), "100 samples in 7 batches")
	require.Contains(t, ok(t, run("stream", "--mix", "ss://"+b+"/0.tar", "--mix", "ss://"+b+"/1.tar")), "40 samples")
	table := ok(t, run("stream", "explain", "--mix", "ss://"+b+"/0.tar=3", "--mix", "ss://"+b+"/1.tar=1", "--interleave", "stratified", "--batch", "0", "--batch-size", "4"))
	require.Contains(t, table, "a mixture of 2 sources")
	require.Len(t, regexp.MustCompile(`(?m)/0\.tar .* 0$`).FindAllString(table, -1), 3, table)
	require.Len(t, regexp.MustCompile(`(?m)/1\.tar .* 1$`).FindAllString(table, -1), 1, table)
	for says, args := range map[string][]string{
		"give a source":          {"stream"},
		"--mix":                  {"stream", "ss://" + b + "/", "--interleave", "random"},
		"all sources with --mix": append(mix, "ss://"+b+"/"),
		`"x" is no number`:       {"stream", "--mix", "ss://" + b + "/0.tar=x"},
	} {
		r := run(args...)
		require.Equal(t, exitUsage, r.code, "%s%s", r.out, r.err)
		require.Contains(t, r.err, says)
	}
}

func TestETLCommands(t *testing.T) {
	run := onCluster(t)
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.py"), filepath.Join(dir, "bad.py")
	require.NoError(t, os.WriteFile(good, []byte("def transform(sample):\n    return sample\n"), 0o600))
	require.NoError(t, os.WriteFile(bad, []byte("def transform(sample:\n"), 0o600))
	require.Contains(t, ok(t, run("etl", "create", "same", "--function", good)), "deployed etl same")
	r := run("etl", "create", "broken", "--function", bad)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "SyntaxError")
	require.Contains(t, ok(t, run("etl", "ls")), "same")
	require.Len(t, document(t, run("etl", "ls", "--json"))["etls"], 1)
	require.Contains(t, ok(t, run("etl", "show", "same")), "return sample")
	require.Equal(t, "transform", document(t, run("etl", "show", "same", "--json"))["entry"])
	require.Contains(t, ok(t, run("etl", "restart", "same")), "restarted etl same, ready on ")
	shown := ok(t, run("etl", "show", "same"))
	for _, want := range []string{"kind        function, level sample, entry transform", "isolation", "state       ready", "TARGET", "target-1"} {
		require.Contains(t, shown, want)
	}
	require.Equal(t, "ready", document(t, run("etl", "restart", "same", "--json"))["state"])
	require.Contains(t, ok(t, run("etl", "ls")), "ready")
	require.Contains(t, ok(t, run("etl", "show", "same", "--source")), "return sample")
	require.Contains(t, ok(t, run("etl", "logs", "same", "--target", "target-1")), "==> target-1 <==")
	ok(t, run("etl", "logs", "same"))

	bytesIn, twice := filepath.Join(dir, "note.txt"), filepath.Join(dir, "twice.py")
	require.NoError(t, os.WriteFile(bytesIn, []byte("hello"), 0o600))
	require.NoError(t, os.WriteFile(twice, []byte("def transform(data, times=2):\n    print('at it')\n    return data * times\n"), 0o600))
	ok(t, run("bucket", "create", "etl-commands"))
	ok(t, run("put", bytesIn, "ss://etl-commands/note.txt"))
	tried := ok(t, run("etl", "test", "same", "ss://etl-commands/note.txt"))
	require.Contains(t, tried, "same (version ")
	require.Regexp(t, `txt +bytes +5 B +hello`, tried)
	try := []string{"etl", "test", "twice", "ss://etl-commands/note.txt", "--function", twice, "--level", "object"}
	tried = ok(t, run(append(try, "-o", filepath.Join(dir, "out"))...))
	require.Contains(t, tried, "not deployed")
	require.Contains(t, tried, "it printed:\nat it\n")
	out, err := os.ReadFile(filepath.Join(dir, "out"))
	require.NoError(t, err)
	require.Equal(t, "hellohello", string(out))
	require.InDelta(t, 15, document(t, run(append(try, "--args", `{"times": 3}`, "--json")...))["size"], 0)
	r = run(append(try, "--args", `{"times": "x"}`)...)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "TypeError")
	ok(t, run("etl", "create", "twice", "--function", twice, "--level", "object"))
	cat := []string{"cat", "ss://etl-commands/note.txt", "--cache", "--etl"}
	require.Equal(t, "hellohello", ok(t, run(append(cat, "twice")...)))
	require.Equal(t, "hellohello", ok(t, run(append(cat, "twice")...)))
	require.Equal(t, "hellohellohello", ok(t, run(append(cat, "twice", "--etl-args", `{"times": 3}`)...)))
	require.Equal(t, strings.Repeat("hello", 6), ok(t, run(append(cat, "twice,twice", "--etl-args", `[{"times": 3}, null]`)...)))
	require.Equal(t, "loh", ok(t, run(append(cat, "twice", "--range", "3-5")...)))
	ok(t, run("bucket", "rm", "etl-commands", "--force"))
	ok(t, run("etl", "rm", "same", "twice"))
	require.Equal(t, []any{}, document(t, run("etl", "ls", "--json"))["etls"])
}

func TestUpInTheForegroundStopsOnInterrupt(t *testing.T) {
	dir := t.TempDir()
	program, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), program, "up", "--targets", "1", "--port", "0", "--dir", dir)
	command.Env = append(os.Environ(), asCommand+"=1")
	out, err := command.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	line := make([]byte, 1000)
	n, err := out.Read(line)
	require.NoError(t, err)
	require.Contains(t, string(line[:n]), "shardstream is ready at http://127.0.0.1:")
	require.Contains(t, string(line[:n]), dir)

	r := cli(t, "up", "--detach", "--dir", dir)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "running already")

	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	require.NoError(t, command.Wait())
	require.DirExists(t, filepath.Join(dir, "data", "target-1", "disk-1"))
	r = cli(t, "down", "--dir", dir)
	require.Zero(t, r.code)
	require.Contains(t, r.out, "not running")
}

func TestInterruptEndsAPut(t *testing.T) {
	run := onCluster(t)
	b := bucket(t, run)
	program, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, program, "put", "-", "ss://"+b+"/endless")
	command.Env = append(os.Environ(), asCommand+"=1", "SHARDSTREAM_ENDPOINT="+shared.endpoint)
	var errs bytes.Buffer
	command.Stderr = &errs
	in, err := command.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, command.Start())
	_, err = in.Write(make([]byte, 1<<20)) // more than the pipe holds: it is being read, and sent
	require.NoError(t, err)
	interrupted := time.Now()
	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	require.Error(t, command.Wait())
	require.Less(t, time.Since(interrupted), 3*time.Second)
	require.Equal(t, exitFailed, command.ProcessState.ExitCode())
	require.Equal(t, "shardstream: interrupted\n", errs.String())
	require.Equal(t, []any{}, document(t, run("ls", "ss://"+b, "--json"))["objects"])
}

func TestPutOfANamedPipe(t *testing.T) {
	run := onCluster(t)
	b := bucket(t, run)
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	go func() { _ = os.WriteFile(pipe, []byte("through a pipe"), 0o600) }()
	r := run("put", pipe, "ss://"+b+"/piped")
	require.Equal(t, exitOK, r.code, r.err)
	require.Equal(t, "through a pipe", run("cat", "ss://"+b+"/piped").out)

	// One that nobody writes to ends with Ctrl-C.
	program, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, program, "put", pipe, "ss://"+b+"/silent")
	command.Env = append(os.Environ(), asCommand+"=1", "SHARDSTREAM_ENDPOINT="+shared.endpoint)
	require.NoError(t, command.Start())
	awaitBlockedOpen(t, command.Process.Pid)
	require.NoError(t, command.Process.Signal(syscall.SIGINT))
	require.Error(t, command.Wait())
	require.Equal(t, exitFailed, command.ProcessState.ExitCode())
}

// awaitBlockedOpen waits until a thread of a process hangs in openat(2): two looks find it in the very
// same call.
func awaitBlockedOpen(t *testing.T, pid int) {
	t.Helper()
	call := strconv.Itoa(syscall.SYS_OPENAT) + " "
	seen := map[string]string{}
	require.Eventually(t, func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/syscall", pid))
		for _, path := range threads {
			line, err := os.ReadFile(path)
			if err != nil || !strings.HasPrefix(string(line), call) {
				delete(seen, path)
				continue
			}
			if seen[path] == string(line) {
				return true
			}
			seen[path] = string(line)
		}
		return false
	}, 10*time.Second, 10*time.Millisecond, "the program does not open the pipe")
}
