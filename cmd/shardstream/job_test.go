package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// withETL deploys an object-level function, which the test removes, and puts some objects for it to transform.
func withETL(t *testing.T, run func(...string) result, objects int, source string) (name, in, out string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "f.py")
	require.NoError(t, os.WriteFile(file, []byte(source), 0o600))
	name = strings.ToLower(t.Name())
	ok(t, run("etl", "create", name, "--function", file, "--level", "object", "--workers", "1"))
	files := filepath.Join(dir, "files")
	require.NoError(t, os.Mkdir(files, 0o700))
	for i := range objects {
		require.NoError(t, os.WriteFile(filepath.Join(files, fmt.Sprintf("%03d.txt", i)), fmt.Appendf(nil, "text %d", i), 0o600))
	}
	in = bucket(t, run)
	ok(t, run("put", files+"/", "ss://"+in+"/raw/"))
	out = in + "-out"
	ok(t, run("bucket", "create", out))
	return name, in, out
}

func TestETLRun(t *testing.T) {
	run := onCluster(t)
	name, in, out := withETL(t, run, 12, "def transform(data):\n    if data == b'text 3':\n        raise ValueError('three')\n    return data.upper()\n")
	defer func() { ok(t, run("etl", "rm", name)) }()
	source, destination := "ss://"+in+"/raw/", "ss://"+out+"/p/"

	plan := run("etl", "run", name, source, destination, "--strip-prefix", "raw/", "--ext", "txt=up", "--dry-run")
	require.Contains(t, ok(t, plan), "ss://"+out+"/p/007.up")
	require.Contains(t, plan.out, "12 objects")
	require.EqualValues(t, 12, document(t, run("etl", "run", name, source, destination, "--dry-run", "--json"))["objects"])
	require.Equal(t, []any{}, document(t, run("ls", "ss://"+out, "--json"))["objects"])

	r := run("etl", "run", name, source, destination, "--strip-prefix", "raw/", "--ext", "txt=up")
	require.Equal(t, exitFailed, r.code, "an object failed")
	require.Contains(t, r.out, "done, 11 stored, 0 skipped, 1 failed")
	require.Contains(t, r.err, "ValueError: three")
	require.Contains(t, r.err, "1 of 12 objects failed")
	require.Equal(t, "TEXT 7", run("cat", "ss://"+out+"/p/007.up").out)

	id := regexp.MustCompile(`job ([0-9a-f-]+):`).FindStringSubmatch(r.out)[1]
	require.Contains(t, ok(t, run("job", "ls")), id)
	shown := document(t, run("job", "show", id, "--json"))
	require.Equal(t, "done", shown["state"])
	require.Contains(t, ok(t, run("job", "show", id)), "11 stored, 0 skipped, 1 failed, of 12")
	require.Contains(t, ok(t, run("job", "show", id, "--failures")), "ss://"+in+"/raw/003.txt")
	failures, _ := document(t, run("job", "show", id, "--failures", "--json"))["failures"].([]any)
	require.Len(t, failures, 1)
	require.Contains(t, ok(t, run("job", "abort", id)), "done", "it stays as it is")

	r = run("etl", "run", name, "ss://"+in+"/raw/00[0-2].txt", destination, "--json")
	require.Equal(t, "done", document(t, r)["state"])

	r = run("etl", "run", name, source, destination, "--max-errors", "0")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "too_many_errors")
	for args, says := range map[string]string{
		"etl run nope " + source + " " + destination:               "no etl",
		"etl run " + name + " ss://nope-nope/ " + destination:      "no bucket nope-nope",
		"etl run " + name + " " + source + " " + source:            "source at once",
		"etl run " + name + " ss://" + in + "/x* " + destination:   "matches no object",
		"etl run " + name + " " + source + " ss://" + out + "/key": "which ends in /",
		"job show 00000000000-0000":                                "no job",
		"job abort 00000000000-0000":                               "no job",
	} {
		r := run(strings.Fields(args)...)
		require.Equal(t, exitFailed, r.code, args)
		require.Contains(t, r.err, says, args)
	}
}

func TestJobStart(t *testing.T) {
	run := onCluster(t)
	name, in, out := withETL(t, run, 3, "def transform(data):\n    return data[::-1]\n")
	defer func() { ok(t, run("etl", "rm", name)) }()
	id := strings.TrimSpace(ok(t, run("job", "start", "--kind", "transform", "--etl", name, "--source", "ss://"+in+"/", "--destination", "ss://"+out+"/flags/")))
	require.Contains(t, ok(t, run("job", "wait", id)), "done, 3 stored")

	spec := filepath.Join(t.TempDir(), "job.json")
	text := fmt.Sprintf(`{"kind": "transform", "transform": {"etl": %q, "source": "ss://%s/", "destination": "ss://%s/file/"}}`, name, in, out)
	require.NoError(t, os.WriteFile(spec, []byte(text), 0o600))
	id = strings.TrimSpace(ok(t, run("job", "start", "--file", spec)))
	require.Equal(t, "done", document(t, run("job", "wait", id, "--json"))["state"])
	objects, _ := document(t, run("ls", "ss://"+out, "--json"))["objects"].([]any)
	require.Len(t, objects, 6)

	require.NoError(t, os.WriteFile(spec, []byte(strings.Replace(text, `"etl"`, `"elt"`, 1)), 0o600))
	r := run("job", "start", "--file", spec)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "elt")
}

// TestInterruptLeavesAJob: Ctrl-C ends the wait, and the job with it only if that was asked for.
func TestInterruptLeavesAJob(t *testing.T) {
	run := onCluster(t)
	name, in, out := withETL(t, run, 100, "import time\ndef transform(data):\n    time.sleep(0.1)\n    return data\n")
	defer func() { ok(t, run("etl", "rm", name)) }()
	interrupted := func(more ...string) (id, said string) {
		program, err := os.Executable()
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		destination := fmt.Sprintf("ss://%s/%d/", out, len(more))
		command := exec.CommandContext(ctx, program, append([]string{"etl", "run", name, "ss://" + in + "/", destination}, more...)...)
		command.Env = append(os.Environ(), asCommand+"=1", "SHARDSTREAM_ENDPOINT="+shared.endpoint)
		var errs bytes.Buffer
		command.Stderr = &errs
		require.NoError(t, command.Start())
		require.Eventually(t, func() bool {
			objects, _ := document(t, run("ls", destination, "--json"))["objects"].([]any)
			return len(objects) > 0
		}, time.Minute, 20*time.Millisecond)
		require.NoError(t, command.Process.Signal(syscall.SIGINT))
		require.Error(t, command.Wait())
		require.Equal(t, exitFailed, command.ProcessState.ExitCode())
		return regexp.MustCompile(`job ([0-9a-f-]+)`).FindStringSubmatch(errs.String())[1], errs.String()
	}
	id, said := interrupted()
	require.Contains(t, said, "shardstream job abort "+id)
	require.Equal(t, "running", document(t, run("job", "show", id, "--json"))["state"])
	require.Contains(t, ok(t, run("job", "abort", id)), "aborted")
	r := run("job", "wait", id)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "aborted")

	id, said = interrupted("--abort-on-interrupt")
	require.Contains(t, said, "aborted")
	require.Equal(t, "aborted", document(t, run("job", "show", id, "--json"))["state"])
}
