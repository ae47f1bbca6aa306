package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/transfer"
)

func newCp(a *app) *cobra.Command {
	f := &transferFlags{}
	command := &cobra.Command{
		Use:   "cp SOURCE... DESTINATION",
		Short: "Copy files between folders, clusters and other stores",
		Long: `cp copies files, folders and patterns between any two of: local files, this
cluster (ss://BUCKET/...), another one (ss://HOST:PORT/BUCKET/...), s3:// gs:// az://
hdfs:// and, as a source, http(s)://. "-" is stdin or stdout.

Of a folder or prefix, everything below it goes below the destination. A single file
goes below a destination that ends in /, is a bucket, or a local folder that exists;
any other destination is its name. What is there already is replaced, unless
--no-overwrite leaves it alone.

Bytes are verified by checksums on their way, and a file appears under its name only
when it is whole. One that fails does not stop the others; the exit code is then 1. A
large download that breaks off goes on where it stopped, the next time.`,
		Example: `  shardstream cp shards/ s3://my-bucket/imagenet/
  shardstream cp 's3://my-bucket/imagenet/train-{0000..0146}.tar' ss://imagenet/
  shardstream cp ss://digits/ ss://other:7070/digits/ --jobs 16
  shardstream cp https://example.org/sets/labels.json -`,
		Args: cobra.MinimumNArgs(2),
	}
	f.add(command)
	noOverwrite := command.Flags().Bool("no-overwrite", false, "leave alone what is at the destination already")
	command.RunE = func(c *cobra.Command, args []string) error {
		if err := f.check(a); err != nil {
			return err
		}
		return refused(a.cp(c.Context(), args[:len(args)-1], args[len(args)-1], *noOverwrite, f))
	}
	return command
}

func (a *app) cp(ctx context.Context, from []string, to string, noOverwrite bool, f *transferFlags) error {
	opener := a.opener(f)
	var sources []*transfer.Source
	for _, text := range from {
		if text == "-" {
			if len(from) > 1 {
				return usagef("stdin can't be copied together with other files")
			}
			in := cancellable(ctx, a.in)
			defer in.Close()
			sources = append(sources, transfer.StreamSource("stdin", in))
			continue
		}
		found, err := opener.Source(ctx, text, f.source)
		if err != nil {
			return err
		}
		sources = append(sources, found...)
	}
	defer func() {
		for _, s := range sources {
			_ = s.Side.Close() // it was only read
		}
	}()
	single := transfer.Single(sources)
	if to == "-" {
		return a.cpOut(ctx, sources, single, f)
	}
	if info, err := os.Stat(to); err == nil && single && !info.IsDir() && !info.Mode().IsRegular() {
		return a.cpInto(ctx, sources[0], to, f) // /dev/null, a named pipe: nothing to rename onto
	}
	target, err := opener.Target(ctx, to, single, f.target)
	if err != nil {
		return err
	}
	if from[0] == "-" && target.Name == "" {
		return errors.Join(usagef("stdin has no name: write that of the file, as in %s", target.Side.String()+"name"), target.Side.Close())
	}
	if err := transfer.CheckApart(sources, target); err != nil {
		return errors.Join(err, target.Side.Close())
	}
	report := a.transferReport("cp", f)
	options := f.options(report)
	options.NoOverwrite = noOverwrite
	totals, err := transfer.Copy(ctx, sources, target, options)
	return report.end(totals, errors.Join(err, target.Side.Close()))
}

// cpOut writes a file to stdout; there is no line about it, as it would be among its bytes.
func (a *app) cpOut(ctx context.Context, sources []*transfer.Source, single bool, f *transferFlags) error {
	if !single {
		return usagef("stdout takes one file")
	}
	if f.dryRun {
		return usagef("--dry-run goes with a destination other than stdout")
	}
	quiet := *f
	quiet.quiet, quiet.json = true, false
	report := a.transferReport("cp", &quiet)
	totals, err := transfer.Fetch(ctx, sources[0], a.out, f.options(report))
	return report.end(totals, err)
}

func (a *app) cpInto(ctx context.Context, source *transfer.Source, at string, f *transferFlags) error {
	if f.dryRun {
		a.printf("would copy %s to %s\n", path.Base(source.One.Name), at)
		return nil
	}
	file, err := os.OpenFile(at, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	report := a.transferReport("cp", f)
	totals, err := transfer.Fetch(ctx, source, file, f.options(report))
	if closeErr := file.Close(); err == nil && !errors.Is(closeErr, fs.ErrClosed) {
		err = closeErr
	}
	return report.end(totals, err)
}
