package etl_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
)

// ready makes a definition ready, as targets do, and lets it go.
func ready(ctx context.Context, def etl.Definition, opts etl.Options) error {
	pool, err := etl.NewPool(def, opts)
	if err != nil {
		return err
	}
	return errors.Join(pool.Prepare(ctx), pool.Close())
}

func TestCheck(t *testing.T) {
	cases := map[string]struct {
		source       string
		requirements []string
		want         []string // of the error; none: it loads
	}{
		"good":         {source: "def transform(sample):\n    return sample\n"},
		"lambda":       {source: "transform = lambda s: s"},
		"class":        {source: "class T:\n    def __call__(self, s): return s\ntransform = T()\n"},
		"builtin":      {source: "transform = dict"},
		"dataclass":    {source: "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\ndef transform(s): return s"},
		"main guard":   {source: "def transform(s): return s\nif __name__ == '__main__': raise SystemExit(1)"},
		"syntax":       {source: "def transform(sample):\n    return sample[\n", want: []string{"SyntaxError: '[' was never closed (probe.py, line 2)"}},
		"indent":       {source: "def transform(s):\nreturn s", want: []string{"IndentationError", "(probe.py, line 2)"}},
		"import":       {source: "import os\nimport not_there_at_all\n", want: []string{"ModuleNotFoundError: No module named 'not_there_at_all'", `File "probe.py", line 2`}},
		"raises":       {source: "x = 1\n\nx / 0\n", want: []string{"ZeroDivisionError", `File "probe.py", line 3`, "x / 0"}},
		"no entry":     {source: "def other(s): return s\ndef more(s): return s", want: []string{"probe.py has no function 'transform'; it defines other, more"}},
		"nothing":      {source: "x = 1", want: []string{"it defines no function"}},
		"not callable": {source: "transform = 5", want: []string{"'transform' in probe.py is int, not a function"}},
		"async":        {source: "async def transform(s): return s", want: []string{"is async"}},
		"no argument":  {source: "def transform(): return {}", want: []string{"must take one argument"}},
		"two":          {source: "def transform(a, b): return {}", want: []string{"must take one argument", "'b'"}},
		"exit":         {source: "import sys\nsys.exit('bye')", want: []string{"SystemExit: bye"}},
		"hard exit":    {source: "import os\nprint('last words', flush=True)\nos._exit(9)", want: []string{"exit status 9 while it loaded the source", "last words"}},
		"crash":        {source: "import ctypes\nctypes.string_at(0)", want: []string{"SIGSEGV", "while it loaded the source"}},
		"hang":         {source: "import time\ntime.sleep(1000)", want: []string{"did not load within 3s"}},
		"prints":       {source: "import os\nprint('x' * 1000000)\nos.write(1, b'y')\ndef transform(s): return s"},
		"missing":      {source: "def transform(s): return s", requirements: []string{"no-such-package>=2"}, want: []string{`requirement 'no-such-package>=2': no-such-package is not installed in /`, "pip install 'no-such-package>=2'", etl.PythonEnv}},
		"stdlib":       {source: "def transform(s): return s", requirements: []string{"json"}},
		"nonsense":     {source: "def transform(s): return s", requirements: []string{"==="}, want: []string{`requirement '==='`}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			def := etl.Definition{Name: "probe", Source: c.source, Requirements: c.requirements}
			dir := t.TempDir()
			err := ready(t.Context(), def, etl.Options{StartTimeout: 3 * time.Second, Dir: dir})
			entries, failed := os.ReadDir(dir)
			require.NoError(t, failed)
			require.Empty(t, entries)
			require.Empty(t, processesIn(dir))
			if len(c.want) == 0 {
				require.NoError(t, err)
				return
			}
			var fault *etl.UserError
			require.ErrorAs(t, err, &fault)
			if name != "crash" { // whose dump shows every frame
				require.NotContains(t, fault.Error(), "worker.py")
			}
			for _, want := range c.want {
				require.Contains(t, fault.Error(), want)
			}
		})
	}
}

func TestRequirementVersions(t *testing.T) {
	needNumpy(t)
	check := func(requirement string) error {
		return ready(t.Context(), etl.Definition{
			Name: "probe", Source: "def transform(s): return s", Requirements: []string{requirement},
		}, etl.Options{})
	}
	require.NoError(t, check("numpy"))
	require.NoError(t, check("NumPy >= 1.0"))
	// Versions are compared only where `packaging` is installed.
	if err := ready(t.Context(), etl.Definition{Name: "probe", Source: "import packaging\ndef transform(s): return s"}, etl.Options{}); err != nil {
		t.Skip("packaging is not installed, so versions are not compared")
	}
	require.ErrorContains(t, check("numpy<1.0"), "requirement 'numpy<1.0': /")
	require.NoError(t, check("no-such-package; python_version < '3'"))
	require.ErrorContains(t, check("numpy >> 3"), "can't be understood")
}

func TestCheckIsCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := ready(ctx, etl.Definition{Name: "x", Source: "import time\ntime.sleep(100)"}, etl.Options{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestDefinitionsAreValidated(t *testing.T) {
	good := etl.Definition{Name: "a-1_b", Source: "x"}
	require.NoError(t, good.Validate())
	cases := map[string]func(*etl.Definition){
		"name":         func(d *etl.Definition) { d.Name = "../x" },
		"name ":        func(d *etl.Definition) { d.Name = "" },
		"name  ":       func(d *etl.Definition) { d.Name = strings.Repeat("a", 64) },
		"source":       func(d *etl.Definition) { d.Source = " \n" },
		"source ":      func(d *etl.Definition) { d.Source = strings.Repeat("x", etl.MaxSource+1) },
		"entry":        func(d *etl.Definition) { d.Entry = "a.b" },
		"level":        func(d *etl.Definition) { d.Level = "batches" },
		"workers":      func(d *etl.Definition) { d.Workers = -1 },
		"timeout_s":    func(d *etl.Definition) { d.Timeout = -1 },
		"requirements": func(d *etl.Definition) { d.Requirements = []string{"a\nb"} },
	}
	for field, change := range cases {
		d := good
		change(&d)
		var fault *etl.DefinitionError
		require.ErrorAs(t, d.Validate(), &fault, field)
		require.Equal(t, strings.TrimSpace(field), fault.Field)
		_, err := etl.NewPool(d, etl.Options{})
		require.ErrorAs(t, err, &fault)
	}
}

func TestShutdownLetsRunningSamplesFinish(t *testing.T) {
	pool := newPool(t, "import time\ndef transform(sample):\n    time.sleep(0.3)\n    return sample\n")
	done := make(chan error, 1)
	out := make([]etl.Result, 3)
	go func() { done <- pool.Transform(t.Context(), nil, numbered(3), out) }()
	require.Eventually(t, func() bool { return pool.Stats().Running > 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, pool.Shutdown(t.Context()))
	require.NoError(t, <-done)
	for _, r := range out {
		require.NoError(t, r.Err)
	}
	require.ErrorIs(t, pool.Transform(t.Context(), nil, numbered(1), out[:1]), etl.ErrClosed)
}
