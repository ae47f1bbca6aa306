package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

// dataset is what `dataset inspect` tells.
type dataset struct {
	Source    string   `json:"source"`
	Shards    int      `json:"shards"`
	Samples   int64    `json:"samples"`
	Bytes     int64    `json:"bytes"`
	MaxSample int64    `json:"max_sample"`
	Unindexed int      `json:"unindexed"` // objects that are no archives: a stream can't take them
	First     *example `json:"first"`     // first sample of the first shard
}

type example struct {
	Shard  string  `json:"shard"`
	Key    string  `json:"key"`
	Fields []field `json:"fields"`
}

type field struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

func newDataset(a *app) *cobra.Command {
	command := &cobra.Command{Use: "dataset", Short: "Look at data sets"}
	command.AddCommand(newDatasetInspect(a))
	return command
}

func newDatasetInspect(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "inspect ss://BUCKET/PATTERN...",
		Short:   "Show the shards, samples and fields of a data set",
		Example: "  shardstream dataset inspect 'ss://digits/train-*.tar'",
		Args:    cobra.MinimumNArgs(1),
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, sources []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		d, err := inspect(c.Context(), client, sources)
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(d)
		}
		a.printDataset(d)
		return nil
	}
	return command
}

func (a *app) printDataset(d dataset) {
	a.printf("%s\n  shards   %d\n  samples  %d\n  bytes    %s\n", d.Source, d.Shards, d.Samples, size(d.Bytes))
	if d.Samples > 0 {
		a.printf("  sample   %s on average, %s at most\n", size(d.Bytes/d.Samples), size(d.MaxSample))
	}
	if d.Unindexed > 0 {
		a.printf("  others   %d objects that are no archives: a stream can't take them\n", d.Unindexed)
	}
	if d.First == nil {
		return
	}
	a.printf("  first    %q in %s\n", d.First.Key, d.First.Shard)
	for _, f := range d.First.Fields {
		a.printf("           %-16s %s\n", f.Name, size(f.Size))
	}
}

func inspect(ctx context.Context, client *api.Client, sources []string) (dataset, error) {
	d := dataset{Source: strings.Join(sources, " ")}
	for _, source := range sources {
		objects, err := find(ctx, client, source)
		if err != nil {
			return d, err
		}
		for _, object := range objects {
			if object.Archive == "" {
				d.Unindexed++
				continue
			}
			d.Shards++
			d.Samples += object.Samples
			d.Bytes += object.Size
			d.MaxSample = max(d.MaxSample, object.MaxSample)
			if d.First == nil && object.Samples > 0 {
				if d.First, err = firstSample(ctx, client, object); err != nil {
					return d, err
				}
			}
		}
	}
	return d, nil
}

// firstSample reads the head of a shard up to the second sample, and no more of it.
func firstSample(ctx context.Context, client *api.Client, object api.Object) (*example, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	reader, err := client.GetObject(ctx, object.Bucket, object.Name, api.GetOptions{IfMatch: object.ETag})
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	first := &example{Shard: api.Address(object.Bucket, object.Name)}
	members := tar.NewReader(reader)
	for {
		member, err := members.Next()
		if errors.Is(err, io.EOF) {
			return first, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the first sample of %s: %w", first.Shard, err)
		}
		if member.Typeflag != tar.TypeReg {
			continue
		}
		// WebDataset's rule: the key ends at the first dot of the base name.
		directory, base := path.Split(member.Name)
		stem, extension, _ := strings.Cut(base, ".")
		key := directory + stem
		if len(first.Fields) > 0 && key != first.Key {
			return first, nil
		}
		first.Key = key
		first.Fields = append(first.Fields, field{Name: extension, Size: member.Size})
	}
}
