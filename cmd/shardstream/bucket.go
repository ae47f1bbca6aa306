package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
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
	command := &cobra.Command{Use: "bucket", Short: "Create, change, list and remove buckets"}
	command.AddCommand(newBucketCreate(a), newBucketSet(a), newBucketLs(a), newBucketShow(a), newBucketRm(a))
	return command
}

func newBucketCreate(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "create BUCKET...",
		Short: "Create buckets",
		Long:  "create makes buckets." + backendHelp,
		Example: `  shardstream bucket create digits --mirror 2
  shardstream bucket create imagenet --backend s3://datasets/imagenet --secret aws --quota 2TiB
  shardstream bucket create mirror --backend https://data.example.org/shards/ --check never --pin 'val-*.tar'`,
		Args: cobra.MinimumNArgs(1),
	}
	properties := bucketFlags(command)
	origin := newBackendFlags(command, true)
	noCheck := command.Flags().Bool("no-check", false, "make the bucket without trying whether its backend answers")
	ifMissing := command.Flags().Bool("if-missing", false, "do nothing where the bucket exists already")
	command.RunE = func(c *cobra.Command, names []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		change, err := properties()
		if err != nil {
			return err
		}
		if change.Backend, err = origin.created(); err != nil {
			return err
		}
		create := client.CreateBucketWith
		if *noCheck {
			create = client.CreateBucketUntried
		}
		for _, name := range names {
			_, err := create(c.Context(), bucketName(name), change)
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

func newBucketSet(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "set BUCKET...",
		Short: "Change how many copies objects have, or how a backend is cached",
		Long: `set changes how many copies a bucket's objects have: those that are there are
brought to it in the background. Of a bucket with a backend it changes all but the
backend's URL.`,
		Example: `  shardstream bucket set digits --mirror 3
  shardstream bucket set archive --ec 4+2
  shardstream bucket set archive --ec none --mirror 2
  shardstream bucket set imagenet --quota 4TiB --check always
  shardstream bucket set imagenet --pin 'val-*.tar' --pin labels.json`,
		Args: cobra.MinimumNArgs(1),
	}
	properties := bucketFlags(command)
	origin := newBackendFlags(command, false)
	command.RunE = func(c *cobra.Command, names []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		change, err := properties()
		if err != nil {
			return err
		}
		if change == (api.BucketChange{}) && !origin.given() {
			return &usageError{"say what to change: --mirror, --ec or --degraded, or of a backend --quota, --check and so on"}
		}
		patch := api.BucketPatch{BucketChange: change}
		if origin.given() {
			if patch.Backend, err = origin.changed(); err != nil {
				return err
			}
		}
		for _, name := range names {
			b, err := client.PatchBucket(c.Context(), bucketName(name), patch)
			if err != nil {
				return err
			}
			kept, _ := keptText(c, client, &b)
			a.printf("bucket %s: %s\n", b.Name, kept)
		}
		return nil
	}
	return command
}

// bucketFlags defines the flags of a bucket's properties, and gives what reads those that were set.
func bucketFlags(command *cobra.Command) func() (api.BucketChange, error) {
	mirror := command.Flags().Int("mirror", 1, "copies of each object, on targets of their own")
	ec := command.Flags().String("ec", "", "K+M: cut objects into K slices with M more, any M of which may be lost; none: no longer")
	degraded := command.Flags().Bool("degraded", false, "take writes while fewer targets are up than copies are to be made")
	return func() (change api.BucketChange, err error) {
		if command.Flags().Changed("mirror") {
			change.Mirror = mirror
		}
		if command.Flags().Changed("degraded") {
			change.Degraded = degraded
		}
		if *ec != "" {
			change.EC, err = parseEC(*ec)
		}
		return change, err
	}
}

func parseEC(value string) (*api.EC, error) {
	if value == "none" {
		return &api.EC{}, nil
	}
	data, parity, ok := strings.Cut(value, "+")
	k, err := strconv.Atoi(data)
	m, err2 := strconv.Atoi(parity)
	if !ok || err != nil || err2 != nil || k < 1 || m < 1 {
		return nil, &usageError{fmt.Sprintf("--ec %q is not K+M, such as 4+2, nor none", value)}
	}
	return &api.EC{Data: k, Parity: m}, nil
}

// redundancyOf tells people how a bucket's objects are kept.
func redundancyOf(b *api.Bucket) string {
	kept := fmt.Sprintf("mirror %d", max(b.Mirror, 1))
	if b.EC != nil {
		kept = fmt.Sprintf("ec %d+%d", b.EC.Data, b.EC.Parity)
	}
	if b.Degraded {
		kept += ", degraded writes"
	}
	return kept
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
	return a.table("BUCKET\tKEPT AS\tCACHED\tCREATED", func(w io.Writer) {
		for i := range buckets {
			b := &buckets[i]
			kept, cached := keptText(c, client, b)
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", b.Name, kept, cached, b.Created.Local().Format(time.DateTime))
		}
	})
}

func newBucketRm(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "rm BUCKET...",
		Short: "Remove empty buckets, or with --force buckets and all objects in them",
		Long: `rm removes empty buckets, or with --force buckets and all objects in them. Of a
bucket with a backend it removes what is cached, and nothing at the backend: that
needs --force only for objects that were put into the cluster alone.`,
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
