package etl_test

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
)

// pickled runs a script that prints a pickle, and returns that and the version of the Python that made it.
func pickled(t *testing.T, script string) (pickle []byte, version string) {
	t.Helper()
	python, err := etl.FindPython(t.Context(), "")
	require.NoError(t, err)
	if err := exec.Command(python, "-c", "import cloudpickle").Run(); err != nil {
		t.Skipf("%s has no cloudpickle (set %s to a Python that has)", python, etl.PythonEnv)
	}
	pickle, err = exec.Command(python, "-c", "import cloudpickle, sys\n"+script).Output()
	require.NoError(t, err)
	told, err := exec.Command(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2], end='')").Output()
	require.NoError(t, err)
	return pickle, string(told)
}

func TestPickledClosures(t *testing.T) {
	pickle, version := pickled(t, `
def make(factor):
    table = {"a": factor}
    def scale(sample, more=0):
        if sample["n"] == b"3":
            raise KeyError("three")
        return {"n": int(sample["n"]) * table["a"] + more}
    return scale
sys.stdout.buffer.write(cloudpickle.dumps(make(7)))
`)
	pool := newPool(t, "", func(d *etl.Definition, _ *etl.Options) { d.Pickle, d.Python = pickle, version })
	out := make([]etl.Result, 5)
	require.NoError(t, pool.Transform(t.Context(), etl.Args(`{"more": 1}`), numbered(5), out))
	for i, r := range out {
		if i == 3 {
			require.Contains(t, userError(t, r).Summary, "KeyError")
			continue
		}
		require.NoError(t, r.Err)
		require.Equal(t, 7*i+1, number(r))
	}
}

func TestPicklesThatDoNotLoad(t *testing.T) {
	good, version := pickled(t, `sys.stdout.buffer.write(cloudpickle.dumps(lambda s: s))`)
	number, _ := pickled(t, `sys.stdout.buffer.write(cloudpickle.dumps(5))`)
	for name, c := range map[string]struct {
		pickle        []byte
		version, want string
	}{
		"other python": {good, "3.1", "there is no Python 3.1 on this node"},
		"no function":  {number, version, "the pickled function of probe is int, not a function"},
		"garbage":      {[]byte("garbage"), version, "UnpicklingError"},
	} {
		t.Run(name, func(t *testing.T) {
			err := ready(t.Context(), etl.Definition{Name: "probe", Pickle: c.pickle, Python: c.version}, etl.Options{Dir: t.TempDir()})
			require.ErrorContains(t, err, c.want)
		})
	}
}

// A Python without cloudpickle says so.
func TestPicklesNeedCloudpickle(t *testing.T) {
	good, version := pickled(t, `sys.stdout.buffer.write(cloudpickle.dumps(lambda s: s))`)
	python, err := etl.FindPython(t.Context(), "")
	require.NoError(t, err)
	bare := t.TempDir()
	require.NoError(t, exec.Command(python, "-m", "venv", "--without-pip", bare).Run())
	err = ready(t.Context(), etl.Definition{Name: "probe", Pickle: good, Python: version}, etl.Options{Dir: t.TempDir(), Python: bare + "/bin/python3"})
	require.ErrorContains(t, err, "the function was sent by cloudpickle, which is not installed in "+bare)
}

// The version that a pickle carries asks for no environment: the node's Python, with its cloudpickle, loads it.
func TestPicklesRunInTheNodesPython(t *testing.T) {
	good, version := pickled(t, `sys.stdout.buffer.write(cloudpickle.dumps(lambda s: s))`)
	m := environments(t)
	pool := newPool(t, "", func(d *etl.Definition, o *etl.Options) { d.Pickle, d.Python, o.Environments = good, version, m })
	require.NoError(t, pool.Prepare(t.Context()))
	require.Empty(t, pool.Logs()) // nothing was built
}
