package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

// asCommand makes the test binary behave as the shardstream program, so that the tests run real
// processes (supervisor and nodes too) without building it a second time.
const asCommand = "SHARDSTREAM_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		os.Exit(run(os.Args[1:]))
	}
	// Under -race every process would sleep for a second at its end.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	code := m.Run()
	os.Exit(max(code, takeDown()))
}

// result is what a command left.
type result struct {
	code     int
	out, err string
}

// cli runs the program with arguments, as a user would.
func cli(t *testing.T, args ...string) result { t.Helper(); return cliWith(t, nil, nil, args...) }

func cliWith(t *testing.T, stdin []byte, env []string, args ...string) result {
	t.Helper()
	program, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), program, args...)
	var out, errs bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(stdin), &out, &errs
	command.Env = append(append(os.Environ(), asCommand+"=1"), env...)
	err = command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return result{code: command.ProcessState.ExitCode(), out: out.String(), err: errs.String()}
}

func TestExitCodesWithoutACluster(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"", exitOK, "Available Commands"},
		{"help", exitOK, "Available Commands"},
		{"version", exitOK, "shardstream "},
		{"completion bash", exitOK, "shardstream"},
		{"bogus", exitUsage, "unknown command"},
		{"bucket bogus", exitUsage, "unknown command"},
		{"bucket create", exitUsage, "shardstream bucket create --help"},
		{"ls --bogus", exitUsage, "unknown flag"},
		{"ls digits", exitUsage, "ss://"},
		{"stream ss://b/x --etl-args {}", exitUsage, "is given, but no etl"},
		{"stream ss://b/x --etl a,b --etl-args {}", exitUsage, "a list with one JSON object, or null, for each"},
		{"ls ss://", exitUsage, "names no bucket"},
		{"cat ss://b", exitUsage, "names no object"},
		{"cat ss://b/k --range 5-1", exitUsage, "--range"},
		{"cat ss://b/k --range x", exitUsage, "--range"},
		{"cat ss://b/k --range 0-1 --member m", exitUsage, "--member"},
		{"cat ss://b/k --cache", exitUsage, "--etl"},
		{"cat ss://b/k --etl x --etl-args {", exitUsage, "--etl-args"},
		{"cat ss://b/k --etl ..", exitUsage, "not a name"},
		{"cat ss://b/k --etl x,y --etl-args {}", exitUsage, "a list with one JSON object, or null, for each"},
		{"cat ss://b/k --etl x --etl-args 5", exitUsage, "not a JSON object"},
		{"etl test x", exitUsage, "2 arg"},
		{"etl test x b/k", exitUsage, "ss://"},
		{"etl test x ss://b/k --entry y", exitUsage, "--function"},
		{"etl test x ss://b/k --args {", exitUsage, "--args"},
		{"node run --etl-cache much", exitUsage, "is not a size"},
		{"get ss://b/k --parallel 0", exitUsage, "--parallel"},
		{"get ss://b/k ss://c/k", exitUsage, "address in the cluster"},
		{"put " + file + " nowhere", exitUsage, "ss://"},
		{"put " + file + " ss://b/ --parallel 0", exitUsage, "--parallel"},
		{"put " + file + " " + file + " ss://b/one", exitUsage, "end the destination with /"},
		{"put " + file + " " + file + " ss://b/", exitUsage, "would both be"},
		{"put - ss://b/", exitUsage, "stdin has no name"},
		{"put " + dir + " ss://b/key", exitUsage, "end the destination with /"},
		{"put " + dir + "/missing ss://b/", exitFailed, "no such file"},
		{"put " + dir + "/missing-* ss://b/", exitFailed, "matches no file"},
		{"rm ss://b/prefix/", exitUsage, "--recursive"},
		{"object locate ss://b/", exitUsage, "names no object"},
		{"etl create augment", exitUsage, "--function"},
		{"etl create augment --function " + file + " --level shard", exitUsage, "--level"},
		{"etl create augment --function " + dir + "/missing.py", exitFailed, "no such file"},
		{"etl create augment --function " + file + " --args []", exitUsage, "--args must be a JSON object"},
		{"etl create augment --function " + file + " --timeout 0", exitUsage, "--timeout"},
		{"etl create augment --function " + file + " --cpus nan", exitUsage, "--cpus"},
		{"etl create .. --function " + file, exitUsage, `".." is not a name`},
		{"etl show .", exitUsage, `"." is not a name`},
		{"etl show augment --source --json", exitUsage, "exclude each other"},
		{"etl rm augment ..", exitUsage, `".." is not a name`},
		{"etl run up ss://in/", exitUsage, "accepts 3 arg"},
		{"etl run up in ss://out/", exitUsage, "ss://"},
		{"etl run up ss://in/ ss://out/ --args {", exitUsage, "--args"},
		{"etl run up ss://in/ ss://out/ --patience 0s", exitUsage, "--patience"},
		{"etl run up ss://in/ ss://out/ --args null", exitUsage, "--args"},
		{"etl run up ss://in/ ss://out/ --max-errors -2", exitUsage, "--max-errors"},
		{"job start", exitUsage, "--kind"},
		{"job start --kind copy", exitUsage, "--kind must be transform"},
		{"job start --kind transform --etl up", exitUsage, "--destination"},
		{"job start --kind transform --file " + file, exitUsage, "one of them"},
		{"job start --file " + file, exitFailed, "does not describe a job"},
		{"job start --file " + file + " --etl up", exitUsage, "leave out --etl"},
		{"job abort .", exitUsage, `"." is not a name`},
		{"job start --file " + dir + "/missing.json", exitFailed, "no such file"},
		{"job show", exitUsage, "accepts 1 arg"},
		{"stream ss://b/x --batch-size 0", exitUsage, "batch_size"},
		{"stream ss://b/x --shuffle sideways", exitUsage, "sideways"},
		{"stream ss://b/x --on-error explode", exitUsage, "on_error"},
		{"stream ss://b/x --max-errors 5", exitUsage, "on_error"},
		{"stream ss://b/x --on-error skip --max-errors many", exitUsage, "max_errors"},
		{"stream ss://b/x --prefetch 0", exitUsage, "--prefetch"},
		{"stream ss://b/x --timeout 0", exitUsage, "--timeout"},
		{"stream b/x", exitUsage, "does not begin with ss://"},
		{"stream --mix ss://b/x=nan", exitUsage, "no number of 0 or more"},
		{"stream --mix ss://b/x=-1", exitUsage, "no number of 0 or more"},
		{"stream --mix ss://b/x=1e999", exitUsage, "no number of 0 or more"},
		{"stream --mix x=1", exitUsage, "does not begin with ss://"},
		{"stream --mix ss://b/x --mix-samples -1", exitUsage, "--mix-samples"},
		{"stream explain", exitUsage, "give a source"},
		{"stream explain b/x", exitUsage, "does not begin with ss://"},
		{"stream explain ss://b/x --batch 1 --position 2", exitUsage, "batch position"},
		{"stream explain ss://b/x --batch 1 --count 2", exitUsage, "batch count"},
		{"stream explain ss://b/x --count 2", exitUsage, "--position"},
		{"stream explain ss://b/x --position 1 --count 0", exitUsage, "--count"},
		{"stream ss://b/x --world-size 0", exitUsage, "--world-size"},
		{"stream ss://b/x --world-size 2 --rank 2", exitUsage, "--rank"},
		{"stream ss://b/x --rank -1", exitUsage, "--rank"},
		{"stream ss://b/x --epochs 0", exitUsage, "--epochs"},
		{"stream ss://b/x --batches -1", exitUsage, "--batches"},
		{"up --targets 0", exitUsage, "--targets"},
		{"up --disks -1", exitUsage, "--disks"},
		{"up --port 70000", exitUsage, "--port"},
		{"up --log-level loud --dir " + dir, exitUsage, "loud"},
		{"up --etl-engine lxc", exitUsage, "--etl-engine must be one of auto, podman"},
		{"up --etl-isolation some", exitUsage, "--etl-isolation must be one of"},
		{"up --backend-allow 10.0.0.0/8,ten", exitUsage, "--backend-allow: backend_allow: \"ten\""},
		{"node run --role target --data " + dir + " --listen :0 --backend-allow 10/8", exitUsage, "--backend-allow"},
		{"node run --role target --data " + dir + " --listen :0 --etl-engine lxc", exitUsage, "--etl-engine"},
		{"node run --role target --data " + dir + " --listen :0 --etl-isolation some", exitUsage, "--etl-isolation"},
		{"node run --role target --data " + dir + " --listen :0 --etl-wait -1s", exitUsage, "--etl-wait"},
		{"down --dir " + dir, exitFailed, "no cluster"},
		{"status --endpoint ftp://x", exitUsage, "endpoint"},
		{"status --endpoint http://127.0.0.1:9", exitFailed, "no gateway answers at http://127.0.0.1:9"},
		{"node run --role king", exitUsage, "role"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			r := cli(t, strings.Fields(c.args)...)
			require.Equal(t, c.code, r.code, "%s%s", r.out, r.err)
			require.Contains(t, r.out+r.err, c.says)
			if c.code != exitOK {
				require.Empty(t, r.out, "errors belong on stderr")
				require.Equal(t, 1, strings.Count(r.err, "\n"), "an error is one line: %s", r.err)
			}
		})
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	var check func(*cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			check(sub)
		}
		if c.HasSubCommands() {
			return
		}
		require.NotEmpty(t, c.Short, c.CommandPath())
		require.Contains(t, c.Example, c.CommandPath(), c.CommandPath())
	}
	check(newRoot(&app{}))
}

func TestPlanUploads(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(name), 0o600))
	}
	write("a/1.tar")
	write("a/deep/2.tar")
	write("b/3.tar")
	require.NoError(t, os.Symlink(filepath.Join(dir, "b/3.tar"), filepath.Join(dir, "a/link.tar")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	keys := func(sources []string, destination string) (keys []string) {
		uploads, err := planUploads(sources, destination)
		require.NoError(t, err)
		for _, u := range uploads {
			keys = append(keys, u.bucket+":"+u.key)
		}
		return keys
	}
	require.Equal(t, []string{"k:1.tar", "k:deep/2.tar", "k:link.tar"}, keys([]string{dir + "/a"}, "ss://k"))
	require.Equal(t, []string{"k:v1/1.tar", "k:v1/3.tar"}, keys([]string{dir + "/a/1.tar", dir + "/b/*"}, "ss://k/v1/"))
	require.Equal(t, []string{"k:other"}, keys([]string{dir + "/b/3.tar"}, "ss://k/other"))
	require.Equal(t, []string{"k:in"}, keys([]string{"-"}, "ss://k/in"))

	_, err := planUploads([]string{dir + "/empty"}, "ss://k/")
	require.ErrorContains(t, err, "holds no files")
	_, err = planUploads([]string{dir + "/none"}, "ss://k/")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
