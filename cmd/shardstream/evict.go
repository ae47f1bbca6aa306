package main

import (
	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newEvict(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "evict ss://BUCKET[/PREFIX]",
		Short: "Free the room that whole copies of erasure-coded objects take",
		Long: `evict takes away the whole copies that targets keep of erasure-coded objects, so
that they can be read without their slices. What remains are the slices: the next
read of an object makes it whole again. Objects whose slices are not all known to be
where they belong stay. Targets do the same by themselves when a disk fills up.`,
		Example: "  shardstream evict ss://imagenet\n  shardstream evict ss://imagenet/2012/",
		Args:    cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, addresses []string) error {
		bucket, prefix, err := api.ParseAddress(addresses[0])
		if err != nil {
			return &usageError{err.Error()}
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		done, err := client.Evict(c.Context(), bucket, prefix)
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(done)
		}
		a.printf("%d objects evicted, %d bytes; %d kept, as not all of their slices are where they belong\n", done.Objects, done.Bytes, done.Kept)
		return nil
	}
	return command
}
