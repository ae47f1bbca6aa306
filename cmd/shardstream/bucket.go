package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

// client makes the client of the cluster at --endpoint.
func (a *app) client() (*api.Client, error) {
	client, err := api.NewClient(api.Options{Endpoint: a.endpoint})
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	return client, nil
}

func newBucket(a *app) *cobra.Command {
	command := &cobra.Command{Use: "bucket", Short: "Create, list and remove buckets"}
	command.AddCommand(newBucketCreate(a), newBucketLs(a), newBucketRm(a))
	return command
}

func newBucketCreate(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "create BUCKET...",
		Short:   "Create buckets",
		Example: "  shardstream bucket create digits",
		Args:    cobra.MinimumNArgs(1),
	}
	ifMissing := command.Flags().Bool("if-missing", false, "do nothing where the bucket exists already")
	command.RunE = func(c *cobra.Command, names []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		for _, name := range names {
			_, err := client.CreateBucket(c.Context(), bucketName(name))
			switch {
			case err == nil:
				a.printf("created bucket %s\n", bucketName(name))
			case *ifMissing && hasCode(err, api.CodeExists):
			default:
				return err
			}
		}
		return nil
	}
	return command
}

func newBucketLs(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "ls",
		Short:   "List buckets",
		Example: "  shardstream bucket ls --json",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, _ []string) error { return a.listBuckets(c, *asJSON) }
	return command
}

func (a *app) listBuckets(c *cobra.Command, asJSON bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	buckets, err := client.Buckets(c.Context())
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(api.BucketList{Buckets: orEmpty(buckets)})
	}
	return a.table("BUCKET\tCREATED", func(w io.Writer) {
		for _, b := range buckets {
			fmt.Fprintf(w, "%s\t%s\n", b.Name, b.Created.Local().Format(time.DateTime))
		}
	})
}

func newBucketRm(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "rm BUCKET...",
		Short:   "Remove empty buckets, or with --force buckets and all objects in them",
		Example: "  shardstream bucket rm old --force",
		Args:    cobra.MinimumNArgs(1),
	}
	force := command.Flags().Bool("force", false, "remove the bucket's objects too; nothing brings them back")
	command.RunE = func(c *cobra.Command, names []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		for _, name := range names {
			err := client.DeleteBucket(c.Context(), bucketName(name), *force)
			if hasCode(err, api.CodeNotEmpty) && !*force {
				return fmt.Errorf("%w; --force removes its objects too", err)
			}
			if err != nil {
				return err
			}
			a.printf("removed bucket %s\n", bucketName(name))
		}
		return nil
	}
	return command
}
