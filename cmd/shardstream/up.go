package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/local"
	"github.com/shardstream/shardstream/cluster/node"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/etl/engine"
	"github.com/shardstream/shardstream/etl/sandbox"
)

// upFlags are the flags of `up`.
type upFlags struct {
	dir    string
	size   local.Size
	port   int
	detach bool
	report bool // hidden: this process is the supervisor that a detaching `up` started
	json   bool
	log    telemetry.Log
	memory int64 // of each target's streams; 0: the default
	engine string
	cache  int64 // of each target's kept outputs; 0: the default, negative: none

	isolation string // the least that targets accept
	settings  string // file of times and rates
	allow     []string
}

func newUp(a *app) *cobra.Command {
	f := &upFlags{}
	command := &cobra.Command{
		Use:   "up",
		Short: "Start a cluster on this machine",
		Long: `up starts a cluster on this machine: gateways, targets and a supervisor that
starts a node again when it dies. It stays in the foreground until Ctrl-C, or
returns when the cluster is ready with --detach.

Everything lies in one directory: data in DIR/data/NODE/DISK, logs in
DIR/logs/NODE.log, pids in DIR/run. Data survives ` + "`down`" + `; the next up finds the
same nodes on the same ports. A later up with more targets or gateways adds
them, be the cluster up or down; the number of disks is chosen by the first up of
a directory. With three gateways or more, any one of them may fail.`,
		Example: `  shardstream up
  shardstream up --targets 3 --disks 2 --dir /data/cluster --detach
  shardstream up --targets 4 --detach                  # one more, while it runs
  shardstream up --dir /tmp/two --port 7170 --detach   # a second cluster`,
		Args: cobra.NoArgs,
	}
	flags := command.Flags()
	dirFlag(command, &f.dir)
	flags.IntVar(&f.size.Targets, "targets", 0, "number of targets, the nodes that store (3)")
	flags.IntVar(&f.size.Gateways, "gateways", 0, "number of gateways (1)")
	flags.IntVar(&f.size.Disks, "disks", 0, "number of disks of each target (1)")
	flags.IntVar(&f.port, "port", 0, "port of the first gateway, 0 for any (7070)")
	flags.Var((*sizeValue)(&f.memory), "stream-memory", "memory that each target's streams may take, such as 4GiB (a quarter of the machine's)")
	flags.StringVar(&f.engine, "etl-engine", engine.Auto, "what runs containers of ETLs: "+strings.Join(engine.Names, ", "))
	flags.Var((*quotaValue)(&f.cache), "etl-cache", "disk that each target's kept outputs of transformations may take, 0 for none (10GiB, at most a tenth of its first disk)")
	isolationFlag(command, &f.isolation)
	flags.BoolVar(&f.detach, "detach", false, "return when the cluster is ready, and leave it running")
	flags.BoolVar(&f.json, "json", false, "with --detach: print endpoint, dir and pid as JSON")
	flags.BoolVar(&f.report, "report", false, "")
	_ = flags.MarkHidden("report")
	configFlag(command, &f.settings)
	allowFlag(command, &f.allow)
	logFlags(command, &f.log)
	command.RunE = func(c *cobra.Command, _ []string) error {
		if err := checkConfinement(f.isolation, f.engine); err != nil {
			return err
		}
		if err := checkAllow(f.allow); err != nil {
			return err
		}
		if f.settings != "" {
			if _, err := node.ReadSettings(f.settings); err != nil {
				return usagef("%v", err)
			}
		}
		for name, n := range map[string]int{"targets": f.size.Targets, "gateways": f.size.Gateways, "disks": f.size.Disks} {
			if c.Flags().Changed(name) && n < 1 {
				return usagef("--%s must be 1 or more, not %d", name, n)
			}
		}
		if f.port < 0 || f.port > 65535 {
			return usagef("--port must be 0 to 65535, not %d", f.port)
		}
		if f.port == 0 && c.Flags().Changed("port") {
			f.port = local.AnyPort
		}
		if !f.report && f.size != (local.Size{}) {
			if done, err := a.grow(c.Context(), f); done || err != nil {
				return err
			}
		}
		if f.detach && !f.report {
			return a.upDetached(c, f)
		}
		return a.upHere(c.Context(), f)
	}
	return command
}

// grow adds nodes to the cluster where it is up already; its supervisor runs them.
func (a *app) grow(ctx context.Context, f *upFlags) (done bool, err error) {
	started := time.Now()
	spec, err := local.Grow(ctx, f.dir, f.size)
	var running *local.RunningError
	switch {
	case errors.Is(err, local.ErrNotRunning), errors.As(err, &running): // to be started, or refused
		return false, nil
	case err != nil:
		return false, err
	}
	if f.json {
		pid, err := local.Running(f.dir)
		return true, errors.Join(err, a.printJSON(local.Report{Endpoint: spec.Endpoint(), Dir: f.dir, PID: pid}))
	}
	a.announce(spec.Endpoint(), f.dir, time.Since(started))
	return true, nil
}

// upHere is the supervisor.
func (a *app) upHere(ctx context.Context, f *upFlags) error {
	started := time.Now()
	log, err := telemetry.NewLogger(a.err, f.log)
	if err != nil {
		return usagef("%v", err)
	}
	reported := false
	err = local.Up(ctx, local.Options{
		Dir: f.dir, Size: f.size, Port: f.port, Logger: log.With(slog.String("part", "supervisor")),
		NodeArgs: f.nodeArgs(),
	}, func(spec local.Spec) {
		if !f.report {
			a.announce(spec.Endpoint(), f.dir, time.Since(started))
			a.printf("Ctrl-C stops it; its data stays.\n")
			return
		}
		reported = true
		report := local.Report{Endpoint: spec.Endpoint(), Dir: f.dir, PID: os.Getpid()}
		if err := report.Send(); err != nil {
			log.Error("nobody hears that the cluster is ready", "error", err)
		}
	})
	if f.report && !reported && err != nil {
		return errors.Join(err, local.Report{Error: err.Error()}.Send())
	}
	return err
}

// upDetached starts a supervisor of its own and waits for its word.
func (a *app) upDetached(c *cobra.Command, f *upFlags) error {
	started := time.Now()
	args := append(slices.Clone(os.Args[1:]), "--report")
	report, err := local.Detach(c.Context(), f.dir, args)
	if err != nil {
		return err
	}
	if f.json {
		return a.printJSON(report)
	}
	a.announce(report.Endpoint, f.dir, time.Since(started))
	return nil
}

func (a *app) announce(endpoint, dir string, took time.Duration) {
	a.printf("shardstream is ready at %s after %.1f s; its files are in %s\n", endpoint, took.Seconds(), dir)
	if endpoint != api.DefaultEndpoint {
		a.printf("export SHARDSTREAM_ENDPOINT=%s\n", endpoint)
	}
}

func newDown(a *app) *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use:     "down",
		Short:   "Stop the cluster on this machine; its data stays",
		Example: "  shardstream down --dir /data/cluster",
		Args:    cobra.NoArgs,
	}
	dirFlag(command, &dir)
	command.RunE = func(c *cobra.Command, _ []string) error {
		err := local.Down(c.Context(), dir)
		if errors.Is(err, local.ErrNotRunning) {
			a.printf("%v\n", err) // what was asked for is so
			return nil
		}
		if err == nil {
			a.printf("the cluster in %s is stopped; its data stays\n", dir)
		}
		return err
	}
	return command
}

// dirFlag adds --dir. Without a home directory it has no default, and the command says so.
func dirFlag(command *cobra.Command, dir *string) {
	otherwise, err := local.DefaultDir()
	command.Flags().StringVar(dir, "dir", otherwise, "directory of the cluster")
	command.PreRunE = func(*cobra.Command, []string) error {
		if *dir == "" {
			if err != nil {
				return usagef("name a directory with --dir: %v", err)
			}
			return usagef("name a directory with --dir")
		}
		layout, err := local.NewLayout(*dir)
		*dir = layout.Dir
		return err
	}
}

// isolations are the values of --etl-isolation.
var isolations = []string{sandbox.Auto, sandbox.Strict, sandbox.Landlock, sandbox.None}

// checkConfinement refuses what would end each node as it starts.
func checkConfinement(isolation, runs string) error {
	if !slices.Contains(isolations, isolation) {
		return usagef("--etl-isolation must be one of %s, not %q", strings.Join(isolations, ", "), isolation)
	}
	if !slices.Contains(engine.Names, runs) {
		return usagef("--etl-engine must be one of %s, not %q", strings.Join(engine.Names, ", "), runs)
	}
	return nil
}

func isolationFlag(command *cobra.Command, value *string) {
	command.Flags().StringVar(value, "etl-isolation", sandbox.Auto,
		"least isolation of transformations' code that is accepted: strict (needs bubblewrap), landlock, none, or auto for the most that the machine has; a definition can ask for more, not for less")
}

func logFlags(command *cobra.Command, log *telemetry.Log) {
	command.Flags().StringVar(&log.Format, "log-format", "text", "format of logs: text or json")
	command.Flags().StringVar(&log.Level, "log-level", "info", "level of logs: debug, info, warn or error")
}

// nodeArgs are the flags that every node gets.
func (f *upFlags) nodeArgs() []string {
	// Whoever waits for the whole cluster is told sooner, and of what is still being built by `etl ls`.
	args := []string{"--log-format", f.log.Format, "--log-level", f.log.Level, "--etl-wait", "10s"}
	args = append(args, "--etl-isolation", f.isolation)
	if path, err := filepath.Abs(f.settings); err == nil && f.settings != "" {
		args = append(args, "--config", path)
	}
	if len(f.allow) > 0 {
		args = append(args, "--backend-allow", strings.Join(f.allow, ","))
	}
	if f.memory != 0 {
		args = append(args, "--stream-memory", (*sizeValue)(&f.memory).String())
	}
	if f.engine != engine.Auto {
		args = append(args, "--etl-engine", f.engine)
	}
	if f.cache != 0 {
		args = append(args, "--etl-cache", (*quotaValue)(&f.cache).String())
	}
	return args
}
