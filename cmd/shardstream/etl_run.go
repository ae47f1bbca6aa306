package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shardstream/shardstream/cluster/api"
)

// transformFlags describe a transformation job on the command line.
type transformFlags struct {
	spec       api.TransformSpec
	args       string
	extensions map[string]string
	maxErrors  int64
	patience   time.Duration
	dryRun     bool
}

func (f *transformFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.args, "args", "", `arguments as JSON, such as {"size": 224}`)
	flags.StringToStringVar(&f.extensions, "ext", nil, "extension to replace in names, as jpg=npy; may be repeated")
	flags.StringVar(&f.spec.StripPrefix, "strip-prefix", "", "what to take off the names of the sources")
	flags.StringVar(&f.spec.Prepend, "prepend", "", "what to put before the names of the outputs")
	flags.BoolVar(&f.spec.OnlyNew, "only-new", false, "leave outputs be that the same version of source and transformation made, with the same arguments")
	flags.Int64Var(&f.maxErrors, "max-errors", -1, "objects that may fail before the job does; -1 for any number")
	flags.DurationVar(&f.patience, "patience", time.Hour, "how long to wait for a node that is away")
	flags.BoolVar(&f.dryRun, "dry-run", false, "list what would be done, and do nothing")
}

// job is the specification that the flags make.
func (f *transformFlags) job() (api.JobSpec, error) {
	spec := f.spec
	spec.Extensions = f.extensions
	var err error
	if spec.Args, err = jsonObject("--args", f.args); err != nil {
		return api.JobSpec{}, err
	}
	switch {
	case f.maxErrors >= 0:
		spec.MaxErrors = &f.maxErrors
	case f.maxErrors < -1:
		return api.JobSpec{}, usagef("--max-errors must be 0 or more, or -1 for any number, not %d", f.maxErrors)
	}
	if f.patience <= 0 {
		return api.JobSpec{}, usagef("--patience must be more than 0, not %v", f.patience)
	}
	spec.PatienceS = f.patience.Seconds()
	for _, address := range []string{spec.Source, spec.Destination} {
		if !strings.HasPrefix(strings.TrimPrefix(address, api.ExactPrefix), api.Scheme) {
			return api.JobSpec{}, usagef("address %q does not begin with %s", address, api.Scheme)
		}
	}
	return api.JobSpec{Kind: api.JobTransform, Transform: &spec}, nil
}

func newETLRun(a *app) *cobra.Command {
	f := &transformFlags{}
	w := &waitFlags{}
	command := &cobra.Command{
		Use:   "run NAME ss://BUCKET/[PATTERN] ss://BUCKET/[PREFIX/]",
		Short: "Transform objects into other objects, by a job of the cluster",
		Long: `run transforms every object of the source and stores what comes out, on all targets
at once. The source is a bucket, a prefix that ends in /, or a pattern with braces
and globs. An output has its source's name behind the destination's prefix; --ext,
--strip-prefix and --prepend change that. Functions of level sample take archives
sample by sample, and make archives.

The job is the cluster's: it goes on when this command ends, and resumes by itself
when nodes die. Ctrl-C leaves it running, unless --abort-on-interrupt is given. An
output is stored whole or not at all, and once. The exit code is 1 where the job, or
any object, failed.`,
		Example: `  shardstream etl run resize ss://photos/ ss://small/
  shardstream etl run decode 'ss://in/train-{0000..0099}.tar' ss://out/v2/ --args '{"size": 224}'
  shardstream etl run features 'ss://photos/cats/*.jpg' ss://photos/features/ --strip-prefix cats/ --ext jpg=npy --only-new`,
		Args: named(cobra.ExactArgs(3)),
	}
	f.register(command.Flags())
	w.register(command.Flags())
	command.Flags().BoolVar(&w.detach, "detach", false, "print the job's id and do not wait for its end")
	command.RunE = func(c *cobra.Command, args []string) error {
		f.spec.ETL, f.spec.Source, f.spec.Destination = args[0], args[1], args[2]
		spec, err := f.job()
		if err != nil {
			return err
		}
		return a.startJob(c, spec, f.dryRun, w)
	}
	return command
}

// startJob starts a job and waits for its end, or says what it would do.
func (a *app) startJob(c *cobra.Command, spec api.JobSpec, dryRun bool, w *waitFlags) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	if dryRun {
		plan, err := client.PlanJob(c.Context(), spec)
		if err != nil {
			return err
		}
		return a.printPlan(plan, w.json)
	}
	job, err := client.StartJob(c.Context(), spec)
	if err != nil {
		return err
	}
	if !w.detach {
		return a.waitJob(c.Context(), client, job, w)
	}
	if w.json {
		return a.printJSON(job)
	}
	a.printf("%s\n", job.ID)
	return nil
}

func (a *app) printPlan(plan api.JobPlan, asJSON bool) error {
	if asJSON {
		return a.printJSON(plan)
	}
	err := a.table("SIZE\tSOURCE\tDESTINATION", func(w io.Writer) {
		for _, step := range plan.First {
			fmt.Fprintf(w, "%s\t%s\t%s\n", size(step.Size), step.Source, step.Destination)
		}
	})
	if more := plan.Objects - int64(len(plan.First)); more > 0 {
		a.printf("and %d more\n", more)
	}
	a.printf("%d objects, %s\n", plan.Objects, size(plan.Bytes))
	return err
}
