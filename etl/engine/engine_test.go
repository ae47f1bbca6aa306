package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/engine"
	"github.com/shardstream/shardstream/etl/enginetest"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func quiet(string) {}

// each runs a test by every engine that this machine has, with the test program as its image.
func each(t *testing.T, test func(t *testing.T, engines *engine.Engines, image string)) {
	t.Helper()
	for name, image := range map[string]func(testing.TB) string{"podman": enginetest.Image, "runc": enginetest.Bundle} {
		t.Run(name, func(t *testing.T) {
			name := image(t)
			engines, err := engine.New(engine.Options{Dir: t.TempDir()})
			require.NoError(t, err)
			test(t, engines, name)
		})
	}
}

// spec is a container of the test program.
func spec(t *testing.T, engines *engine.Engines, e engine.Engine, image string, command ...string) engine.Spec {
	t.Helper()
	found, err := e.Image(within(t), image, quiet)
	require.NoError(t, err)
	s := engine.Spec{
		Image: found, Command: append([]string{"/program"}, command...), Env: map[string]string{"SHARDSTREAM_ARGS": "{}"},
		Memory: 64 << 20, CPUs: 1, PIDs: 64, Tmp: 1 << 20, Network: engine.NetworkNone,
	}
	engines.Identify(&s, "engine")
	return s
}

func TestRun(t *testing.T) {
	each(t, func(t *testing.T, engines *engine.Engines, image string) {
		e, err := engines.For(within(t), image)
		require.NoError(t, err)
		for _, c := range []struct {
			name    string
			command []string
			args    string
			in      string
			want    string
			exit    string
			says    string
		}{
			{"a filter", []string{"filter"}, "{}", strings.Repeat("some text ", 100_000), strings.Repeat("SOME TEXT ", 100_000), "exit status 0", ""},
			{"it fails", []string{"filter"}, `{"mode": "fail"}`, "x", "", "exit status 3", "bad image"},
			{"too much memory", []string{"filter"}, `{"mode": "oom"}`, "x", "", "out of memory", ""},
			{"as whom it runs", []string{"filter"}, `{"mode": "environment"}`, "x", "", "exit status 3", "uid=65534"},
		} {
			t.Run(c.name, func(t *testing.T) {
				s := spec(t, engines, e, image, c.command...)
				s.Env["SHARDSTREAM_ARGS"] = c.args
				var out, said bytes.Buffer
				container, err := e.Start(within(t), s, engine.Stdio{In: strings.NewReader(c.in), Out: &out, Err: &said})
				require.NoError(t, err)
				exit := container.Exit()
				require.Equal(t, c.want, out.String())
				require.Contains(t, exit.String(), c.exit)
				require.Contains(t, said.String(), c.says)
				require.NoError(t, container.Remove())
				require.NoError(t, container.Remove(), "twice is no error")
			})
		}
	})
}

func TestRemoveEndsWhatRuns(t *testing.T) {
	each(t, func(t *testing.T, engines *engine.Engines, image string) {
		e, err := engines.For(within(t), image)
		require.NoError(t, err)
		for _, when := range []string{"at once", "when it runs"} {
			t.Run(when, func(t *testing.T) {
				s := spec(t, engines, e, image, "silent")
				said := etl.NewLog(1 << 10)
				container, err := e.Start(within(t), s, engine.Stdio{Out: said})
				require.NoError(t, err)
				if when != "at once" {
					require.Eventually(t, func() bool { return said.String() != "" }, 20*time.Second, 10*time.Millisecond)
				}
				require.NoError(t, container.Remove())
				require.NotZero(t, container.Exit().Code)
				// An engine that removes a container by itself may still list it for a moment.
				require.Eventually(t, func() bool {
					names, err := e.List(within(t), "shardstream.home", s.Labels["shardstream.home"])
					return err == nil && len(names) == 0
				}, 20*time.Second, 50*time.Millisecond)
			})
		}
	})
}

// TestHostileBundle: a bundle may have been written by anybody, as a package that a transformation requires.
func TestHostileBundle(t *testing.T) {
	image := enginetest.Bundle(t)
	dir := strings.TrimPrefix(image, engine.Bundle)
	victim := filepath.Join(t.TempDir(), "victim")
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	change := func(edit func(config map[string]any)) {
		var config map[string]any
		require.NoError(t, json.Unmarshal(data, &config))
		edit(config)
		changed, err := json.Marshal(config)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), changed, 0o600))
	}
	engines, err := engine.New(engine.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	e, err := engines.For(within(t), image)
	require.NoError(t, err)
	change(func(config map[string]any) {
		touch := []any{map[string]any{"path": "/usr/bin/touch", "args": []string{"touch", victim}}}
		config["hooks"] = map[string]any{"prestart": touch, "createRuntime": touch, "poststop": touch}
		for _, kind := range []string{"bind", "none", "tmpfs"} { // runc would fail, as it is not there
			config["mounts"] = append(config["mounts"].([]any), map[string]any{
				"destination": "/host", "type": kind, "source": "/nowhere/at/all", "options": []string{"rbind"},
			})
		}
		config["process"].(map[string]any)["oomScoreAdj"] = -1000
	})
	var out bytes.Buffer
	container, err := e.Start(within(t), spec(t, engines, e, image, "filter"), engine.Stdio{In: strings.NewReader("x"), Out: &out})
	require.NoError(t, err)
	require.Zero(t, container.Exit().Code, container.Exit().Detail)
	require.Equal(t, "X", out.String())
	require.NoError(t, container.Remove())
	require.NoFileExists(t, victim)

	require.NoError(t, os.Symlink("/", filepath.Join(dir, "all")))
	for _, root := range []string{"/", "all", ".."} {
		change(func(config map[string]any) { config["root"] = map[string]any{"path": root} })
		_, err := e.Image(within(t), image, quiet)
		require.ErrorContains(t, err, "lies outside", root)
	}
}

// TestSweep: a process of the same node finds what one that was killed has left, and leaves its own and others' alone.
func TestSweep(t *testing.T) {
	each(t, func(t *testing.T, killed *engine.Engines, image string) {
		e, err := killed.For(within(t), image)
		require.NoError(t, err)
		orphan := spec(t, killed, e, image, "silent")
		dir, err := killed.TempDir()
		require.NoError(t, err)
		home := filepath.Dir(dir)
		left, err := e.Start(within(t), orphan, engine.Stdio{})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			names, err := e.List(within(t), "shardstream.home", home)
			return err == nil && len(names) == 1
		}, 20*time.Second, 20*time.Millisecond)

		next, err := engine.New(engine.Options{Dir: home})
		require.NoError(t, err)
		mine, err := next.For(within(t), image)
		require.NoError(t, err)
		kept, err := mine.Start(within(t), spec(t, next, mine, image, "silent"), engine.Stdio{})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			names, err := mine.List(within(t), "shardstream.home", home)
			return err == nil && len(names) == 2
		}, 20*time.Second, 20*time.Millisecond)
		swept, err := next.Sweep(within(t))
		require.NoError(t, err)
		require.Equal(t, 1, swept)
		require.True(t, left.Exit().Killed())
		require.NoDirExists(t, dir)
		names, err := mine.List(within(t), "shardstream.home", home)
		require.NoError(t, err)
		require.Equal(t, []string{kept.Name}, names)
		require.NoError(t, kept.Remove())
		require.NoError(t, left.Remove())
	})
}

func TestImages(t *testing.T) {
	image := enginetest.Image(t)
	engines, err := engine.New(engine.Options{Dir: t.TempDir()})
	require.NoError(t, err)
	e, err := engines.For(within(t), image)
	require.NoError(t, err)
	require.Regexp(t, `^podman [0-9.]+`, e.Name())
	var said []string
	_, err = e.Image(within(t), enginetest.Missing, func(line string) { said = append(said, line) })
	require.ErrorContains(t, err, "is not on this node and can't be pulled by podman")
	require.NotEmpty(t, said)

	bundles, err := engines.For(within(t), "bundle:/x")
	require.NoError(t, err)
	_, err = bundles.Image(within(t), "bundle:"+t.TempDir(), quiet)
	require.ErrorContains(t, err, "is not an unpacked image")
}

func TestChoice(t *testing.T) {
	for _, c := range []struct{ engine, image, says string }{
		{"none", "x", "--etl-engine none"},
		{"runc", "x", "bundle:/path"},
		{"podman", "bundle:/x", "runs no unpacked bundle"},
		{"docker", "x", "docker"}, // there is no daemon, or not even the program
	} {
		t.Run(c.engine, func(t *testing.T) {
			if c.engine == "docker" {
				t.Setenv("DOCKER_HOST", "unix:///nowhere.sock")
			}
			engines, err := engine.New(engine.Options{Engine: c.engine, Dir: t.TempDir()})
			require.NoError(t, err)
			_, err = engines.For(within(t), c.image)
			require.ErrorIs(t, err, engine.ErrNone)
			require.ErrorContains(t, err, c.says)
		})
	}
	_, err := engine.New(engine.Options{Engine: "lxc"})
	require.ErrorContains(t, err, "podman")
}

// TestDockerTakesTheFlags: there is a client of docker in more places than a daemon. It refuses flags that it does not
// know before it looks for one.
func TestDockerTakesTheFlags(t *testing.T) {
	args, _ := engine.DockerRun(engine.Spec{
		Name: "n", Image: engine.Image{ID: "i"}, Command: []string{"/program", "serve"}, Env: map[string]string{"A": "b", "HOME": "/"},
		Labels: map[string]string{"l": "v"}, Memory: 1 << 30, CPUs: 0.5, PIDs: 10, Tmp: 1 << 20, Network: engine.NetworkBridge,
		Publish: "127.0.0.1:80", Hosts: true, Mounts: []engine.Mount{{Source: "/a", Target: "/b"}}, Once: true,
	})
	require.Subset(t, args, []string{"--read-only", "no-new-privileges", "--cap-drop", "127.0.0.1::80", "host.containers.internal:host-gateway", "/a:/b:rw,z"})
	engine.TakenByDocker(t, args)
}
