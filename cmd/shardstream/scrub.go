package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newScrub(a *app) *cobra.Command {
	var bucket string
	command := &cobra.Command{
		Use:   "scrub",
		Short: "Read and verify all copies, and replace damaged ones by good ones",
		Long: `scrub has every target read and verify all that it holds; a damaged copy is replaced
by a good one of another target. It is a job: it goes on whatever becomes of this
command. With --wait the exit code is 1 where something could not be repaired.`,
		Example: "  shardstream scrub --wait\n  shardstream scrub --bucket digits",
		Args:    cobra.NoArgs,
	}
	flags := command.Flags()
	flags.StringVar(&bucket, "bucket", "", "the bucket to verify (all)")
	wait := flags.Bool("wait", false, "wait for its end, and say what was found")
	w := &waitFlags{}
	w.register(flags)
	command.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		spec := api.JobSpec{Kind: api.JobScrub}
		if bucket != "" {
			spec.Scrub = &api.ScrubSpec{Bucket: bucketName(bucket)}
		}
		job, err := client.StartJob(c.Context(), spec)
		if err != nil {
			return err
		}
		switch {
		case *wait:
			return a.waitScrub(c.Context(), client, job, w)
		case w.json:
			return a.printJSON(job)
		}
		a.printf("%s\n", job.ID)
		return nil
	}
	return command
}

func (a *app) waitScrub(ctx context.Context, client *api.Client, job api.Job, w *waitFlags) error {
	job, err := a.awaitJob(ctx, client, job, w)
	if err != nil {
		return err
	}
	c := job.Counts
	if w.json {
		if err := a.printJSON(job); err != nil {
			return err
		}
	} else {
		a.printf("scrub %s: %s, %d copies read (%s), %d were damaged: %d are repaired, %d are not\n",
			job.ID, job.State, c.Finished(), size(c.BytesIn), c.Repaired+c.Failed, c.Repaired, c.Failed)
	}
	return a.scrubFailed(ctx, client, &job)
}

func (a *app) scrubFailed(ctx context.Context, client *api.Client, job *api.Job) error {
	if job.Counts.Failed > 0 {
		failures, err := client.JobFailures(ctx, job.ID)
		if err != nil {
			return err
		}
		for _, failure := range failures[:min(len(failures), shownFailures)] {
			fmt.Fprintf(a.err, "shardstream: %s on %s: %s\n", failure.Object, failure.Node, failure.Error.Message)
		}
	}
	switch {
	case job.Error != nil:
		return fmt.Errorf("scrub %s failed: %w", job.ID, job.Error)
	case job.State == api.JobAborted:
		return fmt.Errorf("scrub %s was aborted", job.ID)
	case job.Counts.Failed > 0:
		return fmt.Errorf("%d damaged copies could not be repaired; `shardstream job show %s --failures` says why", job.Counts.Failed, job.ID)
	}
	return nil
}
