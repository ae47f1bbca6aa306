package main

import (
	"context"
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/pflag"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	abortTimeout  = 30 * time.Second
	shownFailures = 3
	plainInterval = 10 * time.Second // between lines where there is no terminal
)

// waitFlags say how a command waits for a job.
type waitFlags struct {
	detach           bool
	abortOnInterrupt bool
	json             bool
}

func (w *waitFlags) register(flags *pflag.FlagSet) {
	flags.BoolVar(&w.abortOnInterrupt, "abort-on-interrupt", false, "abort the job on Ctrl-C; it goes on otherwise")
	flags.BoolVar(&w.json, "json", false, "print the job as JSON, for scripts")
}

// waitJob shows a job's progress until it ends, and says what came of it.
func (a *app) waitJob(ctx context.Context, client *api.Client, job api.Job, w *waitFlags) error {
	job, err := a.awaitJob(ctx, client, job, w)
	if err != nil {
		return err
	}
	return a.reportJob(ctx, client, job, w)
}

// awaitJob shows a job's progress until it ends.
func (a *app) awaitJob(ctx context.Context, client *api.Client, job api.Job, w *waitFlags) (api.Job, error) {
	bar := a.jobProgress(job.ID, w.json)
	job, err := client.WaitJob(ctx, job.ID, bar.show)
	bar.close()
	if ctx.Err() != nil {
		return job, a.leaveJob(client, job.ID, w) //nolint:contextcheck // the command's context has ended
	}
	return job, err
}

// leaveJob is the end of a wait that was interrupted.
func (a *app) leaveJob(client *api.Client, id string, w *waitFlags) error {
	if !w.abortOnInterrupt {
		fmt.Fprintf(a.err, "shardstream: job %s goes on; `shardstream job wait %s` waits for it, `shardstream job abort %s` ends it\n", id, id, id)
		return errSilent
	}
	ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
	defer cancel()
	if _, err := client.AbortJob(ctx, id); err != nil {
		return err
	}
	job, err := client.WaitJob(ctx, id, nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.err, "shardstream: job %s: %s\n", id, job.State)
	return errSilent
}

func (a *app) reportJob(ctx context.Context, client *api.Client, job api.Job, w *waitFlags) error {
	c := job.Counts
	if w.json {
		if err := a.printJSON(job); err != nil {
			return err
		}
	} else {
		a.printf("job %s: %s, %d %s, %d skipped, %d failed; %s in, %s out, %.1f objects/s\n",
			job.ID, job.State, c.Done, doneText(job.Kind), c.Skipped, c.Failed, size(c.BytesIn), size(c.BytesOut), job.Rate.Objects)
	}
	if c.Failed > 0 {
		failures, err := client.JobFailures(ctx, job.ID)
		if err != nil {
			return err
		}
		for _, failure := range failures[:min(len(failures), shownFailures)] {
			fmt.Fprintf(a.err, "shardstream: %s: %s\n", failure.Object, failure.Error.Message)
		}
	}
	switch {
	case job.Error != nil:
		return fmt.Errorf("job %s failed: %w", job.ID, job.Error)
	case job.State == api.JobAborted:
		return fmt.Errorf("job %s was aborted", job.ID)
	case c.Failed > 0:
		return fmt.Errorf("%d of %d objects failed; `shardstream job show %s --failures` says why", c.Failed, c.Total, job.ID)
	}
	return nil
}

// jobProgress shows a job as its counts grow: a bar on a terminal, a line now and then elsewhere.
type jobProgress struct {
	*progress
	app     *app
	id      string
	quiet   bool
	printed time.Time
	shown   int64
	waits   string
}

func (a *app) jobProgress(id string, quiet bool) *jobProgress {
	return &jobProgress{
		app: a, id: id, quiet: quiet, printed: time.Now(),
		progress: a.progressOf("job "+id, -1, quiet, progressbar.OptionShowIts(), progressbar.OptionSetItsString("objects")),
	}
}

func (p *jobProgress) show(j api.Job) {
	if p.bar != nil {
		if j.Counts.Total >= 0 {
			p.bar.ChangeMax64(max(j.Counts.Total, 1))
		}
		description := "job " + p.id
		if len(j.Waiting) > 0 {
			description += " (waits: " + j.Waiting[0] + ")"
		} else if j.Rate.ETA != nil {
			description += ", " + etaText(&j) + " to go"
		}
		p.bar.Describe(description)
		p.add(int(j.Counts.Finished() - p.shown))
		p.shown = j.Counts.Finished()
		return
	}
	waits := ""
	if len(j.Waiting) > 0 {
		waits = "; waits: " + j.Waiting[0]
	}
	if p.quiet || j.Finished() || (time.Since(p.printed) < plainInterval && waits == p.waits) {
		return
	}
	p.printed, p.waits = time.Now(), waits
	p.done("job %s: %d of %s objects, %d failed, %.1f objects/s, %s to go%s", p.id, j.Counts.Finished(), totalText(&j),
		j.Counts.Failed, j.Rate.Objects, etaText(&j), waits)
}
