package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newLs(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "ls [ss://BUCKET/[PREFIX]]",
		Short: "List buckets, or the objects of a bucket",
		Long: `ls lists buckets, or the objects of a bucket: all of them, those whose names
begin with a prefix, or those that match a pattern. Of a bucket with a backend it lists
what the backend has, and says which of it is cached here; with --cached only that,
without asking the backend.`,
		Example: `  shardstream ls
  shardstream ls ss://digits/train-
  shardstream ls ss://imagenet/ --cached
  shardstream ls 'ss://digits/train-{0000..0003}.tar' --json`,
		Args: cobra.MaximumNArgs(1),
	}
	asJSON := jsonFlag(command)
	cached := command.Flags().Bool("cached", false, "of a bucket with a backend: list what is in the cluster")
	command.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return a.listBuckets(c, *asJSON)
		}
		objects, err := a.listObjects(c, args[0], *cached)
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(api.ObjectList{Objects: orEmpty(objects)})
		}
		return a.tableOf(objects)
	}
	return command
}

// tableOf prints objects; those of a bucket with a backend with a column that says whether they are cached.
func (a *app) tableOf(objects []api.Object) error {
	remote := slices.ContainsFunc(objects, func(o api.Object) bool { return o.Cached != nil })
	header := "SIZE\tSAMPLES\tCREATED\t"
	if remote {
		header += "CACHED\t"
	}
	return a.table(header+"NAME", func(w io.Writer) {
		for i := range objects {
			o := &objects[i]
			samples, bytes, cached := "-", "?", ""
			if o.Archive != "" {
				samples = fmt.Sprint(o.Samples)
			}
			if o.Size >= 0 { // some web servers don't tell
				bytes = size(o.Size)
			}
			if remote {
				cached = map[bool]string{true: "yes\t", false: "no\t"}[o.Cached != nil && *o.Cached]
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s%s\n", bytes, samples, o.Created.Local().Format(time.DateTime), cached, api.Address(o.Bucket, o.Name))
		}
	})
}

// listObjects lists by pattern, else by prefix, where nothing found is no error.
func (a *app) listObjects(c *cobra.Command, address string, cached bool) ([]api.Object, error) {
	client, err := a.client()
	if err != nil {
		return nil, err
	}
	bucket, prefix, err := api.ParseAddress(address)
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	if isPattern(prefix) && !cached {
		return find(c.Context(), client, address)
	}
	pattern := api.PrefixPattern(bucket, prefix)
	if isPattern(prefix) {
		if pattern, err = api.ParsePattern(address); err != nil {
			return nil, &usageError{err.Error()}
		}
	}
	var objects []api.Object
	for object, err := range client.Objects(c.Context(), bucket, api.ListOptions{Prefix: pattern.Prefix, Cached: cached}) {
		if err != nil {
			return nil, err
		}
		if pattern.Match(object.Name) {
			objects = append(objects, object)
		}
	}
	return objects, nil
}

func newObject(a *app) *cobra.Command {
	command := &cobra.Command{Use: "object", Short: "Look at single objects"}
	command.AddCommand(newObjectLocate(a))
	return command
}

func newObjectLocate(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "locate ss://BUCKET/KEY",
		Short:   "Show the nodes, disks and files that hold an object",
		Example: "  shardstream object locate ss://digits/train-0000.tar --json",
		Args:    cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		bucket, key, err := objectAddress(args[0])
		if err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		location, err := client.Locate(c.Context(), bucket, key)
		if err != nil {
			return err
		}
		if len(location.Copies) == 0 {
			return fmt.Errorf("%s does not exist", location.Object)
		}
		if *asJSON {
			return a.printJSON(location)
		}
		a.printf("%s version %d\n", location.Object, location.Version)
		return a.table("NODE\tDISK\tKIND\tFILE", func(w io.Writer) {
			for _, copied := range location.Copies {
				for _, file := range copied.Files {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", copied.Node, copied.Disk, copied.Kind, file)
				}
			}
		})
	}
	return command
}
