package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newPrefetch(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "prefetch ss://BUCKET[/PREFIX|/PATTERN]",
		Short: "Fetch objects of a bucket from its backend before they are read",
		Long: `prefetch fetches objects of a bucket from its backend, so that they are read at local
speed: all, those below a prefix that ends in /, or those that a pattern with braces and
wildcards names. It is a job: it goes on whatever becomes of this command. Objects that
are there already are skipped; for those that the quota or the disks have no room for,
it fails. With --wait the exit code is 1 where any object failed.`,
		Example: `  shardstream prefetch ss://imagenet/ --wait
  shardstream prefetch 'ss://imagenet/train-{0000..0099}.tar'`,
		Args: cobra.ExactArgs(1),
	}
	wait, w := contentFlags(command)
	command.RunE = func(c *cobra.Command, addresses []string) error {
		spec, err := contentSpec(addresses[0])
		if err != nil {
			return err
		}
		return a.startContent(c, api.JobSpec{Kind: api.JobPrefetch, Prefetch: spec}, *wait, w)
	}
	return command
}

func contentFlags(command *cobra.Command) (wait *bool, w *waitFlags) {
	wait = command.Flags().Bool("wait", false, "wait for its end, and show how far it is")
	w = &waitFlags{}
	w.register(command.Flags())
	return wait, w
}

// contentSpec is what an address says of a bucket's objects: all below a prefix, or those of a pattern.
func contentSpec(address string) (*api.CacheSpec, error) {
	bucket, key, err := api.ParseAddress(address)
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	spec := &api.CacheSpec{Bucket: bucket}
	switch {
	case isPattern(key):
		if _, err := api.ParsePattern(address); err != nil {
			return nil, &usageError{err.Error()}
		}
		spec.Pattern = key
	case key == "" || strings.HasSuffix(key, "/"):
		spec.Prefix = key
	default:
		spec.Names = []string{key}
	}
	return spec, nil
}

func (a *app) startContent(c *cobra.Command, spec api.JobSpec, wait bool, w *waitFlags) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	job, err := client.StartJob(c.Context(), spec)
	switch {
	case err != nil:
		return err
	case wait:
		return a.waitJob(c.Context(), client, job, w)
	case w.json:
		return a.printJSON(job)
	}
	a.printf("%s\n", job.ID)
	return nil
}
