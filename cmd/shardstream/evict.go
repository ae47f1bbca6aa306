package main

import (
	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newEvict(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "evict ss://BUCKET[/PREFIX|/PATTERN]",
		Short: "Free the room of what can be had again: objects of a backend, or whole copies of erasure-coded ones",
		Long: `evict takes away what the cluster can have again. Of a bucket with a backend that are
the cached objects: all, those below a prefix that ends in /, or those of a pattern. The
next read of one fetches it anew. Objects that were put into the cluster alone and
pinned ones stay. It is a job there; --wait waits for its end.

Of an erasure-coded bucket it takes away the whole copies that targets keep, so that
objects can be read without their slices, of names that begin with a prefix. What
remains are the slices: the next read of an object makes it whole again. Objects whose
slices are not all known to be where they belong stay.

Targets do both by themselves when a disk fills up.`,
		Example: `  shardstream evict ss://imagenet/2012/ --wait
  shardstream evict 'ss://imagenet/train-*.tar'
  shardstream evict ss://erasure-coded`,
		Args: cobra.ExactArgs(1),
	}
	wait, w := contentFlags(command)
	command.RunE = func(c *cobra.Command, addresses []string) error {
		bucket, prefix, err := api.ParseAddress(addresses[0])
		if err != nil {
			return &usageError{err.Error()}
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		b, err := client.Bucket(c.Context(), bucket)
		if err != nil {
			return err
		}
		if b.Backend != nil {
			spec, err := contentSpec(addresses[0])
			if err != nil {
				return err
			}
			return a.startContent(c, api.JobSpec{Kind: api.JobEvict, Evict: spec}, *wait, w)
		}
		done, err := client.Evict(c.Context(), bucket, prefix)
		if err != nil {
			return err
		}
		if w.json {
			return a.printJSON(done)
		}
		a.printf("%d objects evicted, %d bytes; %d kept, as not all of their slices are where they belong\n", done.Objects, done.Bytes, done.Kept)
		return nil
	}
	return command
}
