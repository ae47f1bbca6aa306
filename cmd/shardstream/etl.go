package main

import (
	"fmt"
	"math"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

// maxSource bounds the source file of a transformation.
const maxSource = 1 << 20

func newETL(a *app) *cobra.Command {
	command := &cobra.Command{Use: "etl", Short: "Deploy and inspect transformations"}
	command.AddCommand(newETLCreate(a), newETLLs(a), newETLShow(a), newETLRestart(a), newETLLogs(a), newETLTest(a), newETLRun(a), newETLRm(a))
	return command
}

func newETLCreate(a *app) *cobra.Command {
	var file, arguments string
	var definition api.ETL
	var timeout time.Duration
	var noWait bool
	command := &cobra.Command{
		Use:   "create NAME --function FILE.py | --image IMAGE | --url URL | -- PROGRAM [ARG...]",
		Short: "Deploy a transformation, or a new version of it",
		Long: `create deploys a transformation beside every target. With --function it is a Python function:

    def transform(sample):    # level sample: a dict of field name to bytes
        ...
        return sample         # bytes, str, numbers or numpy arrays

With --level batch: def transform(samples), a list of such dicts in, a dict of columns out; with --level
object: def transform(data), bytes in, bytes out.

What a function requires is installed in an environment of its own on every target. The transformation is in
force once all targets have made it ready; until then, and if one can't, the version before stays.

With --image it is a container that serves HTTP (what follows -- takes the place of the image's command), with
--url a server that you run yourself, and with neither the program behind -- is run for each object and filters
stdin to stdout.`,
		Example: `  shardstream etl create augment --function augment.py --requirement pillow
  shardstream etl create gray --function gray.py --entry to_gray --workers 4
  shardstream etl create echo --image localhost/echo:1
  shardstream etl create wav -- ffmpeg -loglevel error -i pipe:0 -f wav pipe:1`,
		Args: func(c *cobra.Command, args []string) error {
			if n := c.ArgsLenAtDash(); n == 1 || (n < 0 && len(args) == 1) {
				return named(cobra.ArbitraryArgs)(c, args[:1])
			}
			return usagef("name one transformation; a program and its arguments follow --")
		},
	}
	flags := command.Flags()
	flags.StringVar(&file, "function", "", "Python file that defines a function")
	flags.StringVar(&definition.Entry, "entry", "", "name of the function (transform)")
	flags.StringArrayVar(&definition.Requirements, "requirement", nil, "Python package that the function needs, such as pillow>=10; may be repeated")
	flags.StringVar(&definition.Python, "python", "", "Python version that the function needs, such as 3.11 (the node's)")
	flags.StringVar(&definition.Image, "image", "", "OCI image of a container")
	flags.IntVar(&definition.Port, "port", 0, "port that the container's server listens on (given to it in $PORT)")
	flags.StringVar(&definition.URL, "url", "", "address of a server that you run; {host} and {target} stand for the target's")
	flags.StringVar(&definition.Transport, "transport", "", "how data travels: push, redirect, proxy or stdio (also hpush, hpull, hrev, as AIStore calls the first three)")
	flags.StringArrayVar(&definition.Fields, "field", nil, "field that an object-level transformation is applied to in streams; may be repeated")
	flags.StringToStringVar(&definition.Env, "env", nil, "environment variable, NAME=VALUE; may be repeated")
	flags.StringVar(&definition.Level, "level", "", "what it takes: sample (functions), batch or object (all others)")
	flags.StringVar(&arguments, "args", "", `default arguments as JSON, such as {"size": 224}`)
	flags.IntVar(&definition.Workers, "workers", 0, "worker processes of each target, 0 for one per CPU")
	flags.DurationVar(&timeout, "timeout", 30*time.Second, "time limit for one sample or object")
	flags.Var((*sizeValue)(&definition.Memory), "memory", "memory of one worker or of the container (2GiB)")
	flags.Float64Var(&definition.CPUs, "cpus", 0, "CPUs of one worker or of the container, 0 for no limit")
	flags.Var((*sizeValue)(&definition.MaxOutput), "max-output", "bytes of one answer (256MiB)")
	flags.StringVar(&definition.Isolation, "isolation", "", "least isolation that will do: strict, landlock or none (the most that a node has)")
	flags.StringVar(&definition.Network, "network", "", "network that it may use: none, host or bridge (none)")
	flags.BoolVar(&noWait, "no-wait", false, "deploy without having the targets try it first; `etl ls` shows what becomes of it")
	asJSON := jsonFlag(command)
	_ = command.MarkFlagFilename("function", "py")
	command.RunE = func(c *cobra.Command, args []string) error {
		definition.Name, definition.Command, definition.TimeoutS = args[0], args[1:], timeout.Seconds()
		var err error
		if definition.Args, err = jsonObject("--args", arguments); err != nil {
			return err
		}
		if timeout <= 0 {
			return usagef("--timeout must be more than 0, not %v", timeout)
		}
		if c := definition.CPUs; math.IsNaN(c) || c < 0 {
			return usagef("--cpus must be a number of CPUs, or 0 for no limit, not %g", c)
		}
		if l := definition.Level; l != "" && l != api.LevelSample && l != api.LevelBatch && l != api.LevelObject {
			return usagef("--level must be %s, %s or %s, not %q", api.LevelSample, api.LevelBatch, api.LevelObject, l)
		}
		if err := kindOf(&definition, file); err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		var deployed api.ETL
		if noWait {
			deployed, err = client.StoreETL(c.Context(), definition)
		} else {
			deployed, err = a.deploy(c.Context(), client, definition, *asJSON)
		}
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(deployed)
		}
		a.printf("deployed etl %s, version %d\n", deployed.Name, deployed.Version)
		return nil
	}
	return command
}

// kindOf says by the flags given what kind of transformation is meant, and reads a function's source.
func kindOf(definition *api.ETL, file string) error {
	named := 0
	for _, flag := range []string{file, definition.Image, definition.URL} {
		if flag != "" {
			named++
		}
	}
	switch {
	case named > 1:
		return usagef("--function, --image and --url exclude each other")
	case file != "":
		if len(definition.Command) > 0 {
			return usagef("a function takes no program: leave out what follows --")
		}
		source, err := readSource(file)
		if err != nil {
			return err
		}
		definition.Kind, definition.Source = "function", source
	case definition.Image != "":
		definition.Kind = "container"
	case definition.URL != "":
		definition.Kind = "server"
	case len(definition.Command) > 0:
		definition.Kind = "command"
	default:
		return usagef("say what transforms: --function FILE.py, --image IMAGE, --url URL, or a program after --")
	}
	return nil
}

func readSource(path string) (string, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if stat.Size() > maxSource {
		return "", fmt.Errorf("%s has %s; a transformation's source has at most %s", path, size(stat.Size()), size(maxSource))
	}
	source, err := os.ReadFile(path)
	return string(source), err
}

func newETLRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME...",
		Short:   "Remove transformations",
		Example: "  shardstream etl rm augment",
		Args:    named(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, names []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := client.DeleteETL(c.Context(), name); err != nil {
					return err
				}
				a.printf("removed etl %s\n", name)
			}
			return nil
		},
	}
}
