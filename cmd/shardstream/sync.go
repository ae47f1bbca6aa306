package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/transfer"
)

func newSync(a *app) *cobra.Command {
	f := &transferFlags{}
	command := &cobra.Command{
		Use:   "sync SOURCE DESTINATION",
		Short: "Make a folder, bucket or prefix like another",
		Long: `sync copies what is missing at the destination, or differs from the source: first by
size; then by checksum, where both sides know one of a kind; else by time, as a file at
the destination that is as new as the source's is taken for the same. --checksum
compares contents instead of times, and reads them for it.

Both are folders: local ones, or any that cp takes. With or without a slash at their
ends, what is below the one goes below the other. Nothing is deleted but with --delete,
which does so last, and not where the source has no files, or any file failed. What
--include and --exclude leave out is neither copied nor deleted.

A run that was broken off is taken up again by the same command.`,
		Example: `  shardstream sync shards/ ss://digits/v1/
  shardstream sync s3://my-bucket/imagenet ss://imagenet --include '*.tar'
  shardstream sync ss://digits/ ./digits --delete --dry-run`,
		Args: cobra.ExactArgs(2),
	}
	f.add(command)
	flags := command.Flags()
	checksum := flags.Bool("checksum", false, "compare contents where the sides know nothing but size and time")
	remove := flags.Bool("delete", false, "delete at the destination what is not at the source")
	force := flags.Bool("force", false, "with --delete: delete even where the source is empty, or files failed")
	command.RunE = func(c *cobra.Command, args []string) error {
		if err := f.check(a); err != nil {
			return err
		}
		if *force && !*remove {
			return usagef("--force goes with --delete only")
		}
		report := a.transferReport("sync", f)
		options := f.options(report)
		options.Checksum, options.Delete, options.Force = *checksum, *remove, *force
		return refused(a.sync(c.Context(), args[0], args[1], f, options, report))
	}
	return command
}

func (a *app) sync(ctx context.Context, from, to string, f *transferFlags, o transfer.Options, report *transferReport) error {
	if from == "-" || to == "-" {
		return usagef("sync takes folders: - goes with cp")
	}
	opener := a.opener(f)
	source, err := opener.Folder(ctx, from, true, f.source)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := opener.Folder(ctx, to, false, f.target)
	if err != nil {
		return err
	}
	if err := transfer.CheckFoldersApart(source, target); err != nil {
		return errors.Join(err, target.Close())
	}
	totals, err := transfer.Sync(ctx, source, target, o)
	return report.end(totals, errors.Join(err, target.Close()))
}
