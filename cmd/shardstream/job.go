package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shardstream/shardstream/cluster/api"
)

// maxSpec bounds the file that describes a job.
const maxSpec = 1 << 20

func newJob(a *app) *cobra.Command {
	command := &cobra.Command{Use: "job", Short: "Start and watch the cluster's jobs"}
	command.AddCommand(newJobStart(a), newJobLs(a), newJobShow(a), newJobWait(a), newJobAbort(a))
	return command
}

func newJobStart(a *app) *cobra.Command {
	var kind, file string
	f := &transformFlags{}
	w := &waitFlags{detach: true}
	command := &cobra.Command{
		Use:   "start --kind KIND ... | --file SPEC.json",
		Short: "Start a job, and print its id",
		Example: `  shardstream job start --kind transform --etl resize --source ss://photos/ --destination ss://small/
  shardstream job start --file job.json
  echo '{"kind": "transform", "transform": {"etl": "resize", "source": "ss://photos/", "destination": "ss://small/"}}' |
    shardstream job start --file -`,
		Args: cobra.NoArgs,
	}
	flags := command.Flags()
	flags.StringVar(&kind, "kind", "", "kind of job: transform, scrub")
	flags.StringVarP(&file, "file", "f", "", "JSON file that describes the job, - for stdin")
	flags.StringVar(&f.spec.ETL, "etl", "", "transformation to apply")
	flags.StringVar(&f.spec.Source, "source", "", "what to transform: ss://BUCKET/[PATTERN]")
	flags.StringVar(&f.spec.Destination, "destination", "", "where outputs go: ss://BUCKET/[PREFIX/]")
	f.register(flags)
	flags.BoolVar(&w.json, "json", false, "print the job as JSON")
	_ = command.MarkFlagFilename("file", "json")
	command.RunE = func(c *cobra.Command, _ []string) error {
		if (kind == "") == (file == "") {
			return usagef("say what to do: --kind and its flags, or --file, one of them")
		}
		if file != "" {
			if other := beside(c.Flags(), "file", "json", "dry-run"); other != "" {
				return usagef("--file describes the whole job: leave out --%s", other)
			}
			spec, err := readSpec(a.in, file)
			if err != nil {
				return err
			}
			return a.startJob(c, spec, f.dryRun, w)
		}
		if kind == api.JobScrub {
			if other := beside(c.Flags(), "kind", "json"); other != "" {
				return usagef("a job of kind %s has no --%s; `shardstream scrub` takes what it has", kind, other)
			}
			return a.startJob(c, api.JobSpec{Kind: kind}, false, w)
		}
		if kind == api.JobPrefetch || kind == api.JobEvict {
			return usagef("`shardstream %s` starts jobs of kind %s", kind, kind)
		}
		if kind != api.JobTransform {
			return usagef("--kind must be %s or %s, not %q", api.JobTransform, api.JobScrub, kind)
		}
		if f.spec.ETL == "" || f.spec.Source == "" || f.spec.Destination == "" {
			return usagef("a job of kind %s needs --etl, --source and --destination", kind)
		}
		spec, err := f.job()
		if err != nil {
			return err
		}
		return a.startJob(c, spec, f.dryRun, w)
	}
	return command
}

// readSpec reads a job's description; a member that is misspelt is an error, not a default.
func readSpec(stdin io.Reader, path string) (api.JobSpec, error) {
	var spec api.JobSpec
	in := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return spec, err
		}
		defer file.Close()
		in = file
	}
	decoder := json.NewDecoder(io.LimitReader(in, maxSpec))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&spec)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("it is empty")
	case errors.As(err, &wrong):
		err = fmt.Errorf("%s can't be a JSON %s", wrong.Field, wrong.Value)
	case err == nil && decoder.More():
		err = errors.New("something follows its end")
	}
	if err != nil {
		return spec, fmt.Errorf("%s does not describe a job: %w", path, err)
	}
	return spec, nil
}

// beside is a flag that was given besides those named; "" for none.
func beside(flags *pflag.FlagSet, names ...string) (other string) {
	flags.Visit(func(f *pflag.Flag) {
		if !slices.Contains(append(names, "endpoint"), f.Name) {
			other = f.Name
		}
	})
	return other
}

func newJobLs(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "ls",
		Short:   "List the jobs under way and those that ended last",
		Example: "  shardstream job ls",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		list, err := client.Jobs(c.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(api.JobList{Jobs: orEmpty(list)})
		}
		return a.table("ID\tKIND\tSTATE\tDONE\tFAILED\tTOTAL\tETA\tCREATED\tWHAT", func(w io.Writer) {
			for i := range list {
				j := &list[i]
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\n", j.ID, j.Kind, j.State, j.Counts.Done+j.Counts.Skipped, j.Counts.Failed,
					totalText(j), etaText(j), j.Created.Local().Format(time.DateTime), whatText(j))
			}
		})
	}
	return command
}

func totalText(j *api.Job) string {
	if j.Counts.Total < 0 {
		return "-"
	}
	return fmt.Sprint(j.Counts.Total)
}

func etaText(j *api.Job) string {
	if j.Finished() || j.Rate.ETA == nil {
		return "-"
	}
	return (time.Duration(*j.Rate.ETA+0.5) * time.Second).String()
}

func whatText(j *api.Job) string {
	if t := j.Transform; t != nil {
		return t.ETL + ": " + t.Source + " to " + t.Destination
	}
	if s := j.Scrub; s != nil && s.Bucket != "" {
		return api.Address(s.Bucket, "")
	}
	for _, s := range []*api.CacheSpec{j.Prefetch, j.Evict} {
		switch {
		case s == nil:
		case len(s.Names) == 1:
			return api.Address(s.Bucket, s.Names[0])
		case len(s.Names) > 1:
			return fmt.Sprintf("%d objects of %s", len(s.Names), api.Address(s.Bucket, ""))
		default:
			return api.Address(s.Bucket, s.Prefix+s.Pattern) // one of them
		}
	}
	return ""
}

func newJobShow(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "show ID",
		Short:   "Show a job and how far it is, or what failed",
		Example: "  shardstream job show 019ac5d3b7e-1f6a\n  shardstream job show 019ac5d3b7e-1f6a --failures --json",
		Args:    named(cobra.ExactArgs(1)),
	}
	asJSON := jsonFlag(command)
	failures := command.Flags().Bool("failures", false, "list the objects that failed, and why; the first thousand")
	command.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		if *failures {
			list, err := client.JobFailures(c.Context(), args[0])
			if err != nil {
				return err
			}
			if *asJSON {
				return a.printJSON(api.JobFailures{Failures: orEmpty(list)})
			}
			for _, failure := range list {
				a.printf("%s (%s): %v\n", failure.Object, failure.Node, failure.Error)
			}
			return nil
		}
		job, err := client.Job(c.Context(), args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(job)
		}
		a.showJob(&job)
		return nil
	}
	return command
}

func (a *app) showJob(j *api.Job) {
	a.printf("%s\t%s, %s\n", j.ID, j.Kind, j.State)
	a.printf("what\t%s\n", whatText(j))
	a.printf("objects\t%d %s, %d skipped, %d failed, of %s\n", j.Counts.Done, doneText(j.Kind), j.Counts.Skipped, j.Counts.Failed, totalText(j))
	a.printf("bytes\t%s read of %s, %s made\n", size(j.Counts.BytesIn), size(j.Counts.TotalBytes), size(j.Counts.BytesOut))
	a.printf("rate\t%.1f objects/s, %s/s, %s to go\n", j.Rate.Objects, size(int64(j.Rate.Bytes)), etaText(j))
	for _, reason := range j.Waiting {
		a.printf("waits\t%s\n", reason)
	}
	if j.Error != nil {
		a.printf("error\t%v\n", j.Error)
	}
}

// doneText says what is done to an object in a job of a kind.
func doneText(kind string) string {
	switch kind {
	case api.JobPrefetch:
		return "fetched"
	case api.JobEvict:
		return "evicted"
	}
	return "stored"
}

func newJobWait(a *app) *cobra.Command {
	w := &waitFlags{}
	command := &cobra.Command{
		Use:     "wait ID",
		Short:   "Wait for the end of a job",
		Long:    "wait waits for the end of a job. The exit code is 1 where the job, or any object of it, failed.",
		Example: "  shardstream job wait 019ac5d3b7e-1f6a",
		Args:    named(cobra.ExactArgs(1)),
	}
	w.register(command.Flags())
	command.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		job, err := client.Job(c.Context(), args[0])
		if err != nil {
			return err
		}
		return a.waitJob(c.Context(), client, job, w)
	}
	return command
}

func newJobAbort(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "abort ID...",
		Short:   "End jobs; outputs that are complete stay",
		Example: "  shardstream job abort 019ac5d3b7e-1f6a",
		Args:    named(cobra.MinimumNArgs(1)),
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, ids []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		var list []api.Job
		for _, id := range ids {
			if _, err := client.AbortJob(c.Context(), id); err != nil {
				return err
			}
			job, err := client.WaitJob(c.Context(), id, nil)
			if err != nil {
				return err
			}
			if list = append(list, job); !*asJSON {
				a.printf("job %s: %s, %d outputs are stored\n", id, job.State, job.Counts.Done)
			}
		}
		if *asJSON {
			return a.printJSON(api.JobList{Jobs: list})
		}
		return nil
	}
	return command
}
