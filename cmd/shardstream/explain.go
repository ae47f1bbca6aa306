package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newStreamExplain(a *app) *cobra.Command {
	var request api.ExplainRequest
	var position int64
	command := &cobra.Command{
		Use:   "explain ss://BUCKET/PATTERN...",
		Short: "Show which samples a batch has, and where they come from",
		Long: `Show which samples a batch has, and where they come from.

The order of an epoch is a function of the data, the seed, the epoch and the shuffle, so this reads no
sample and needs no running job: give the settings of the job, and the number of a batch of one rank.`,
		Example: `  shardstream stream explain 'ss://digits/train-*.tar' --epoch 3 --batch 9123
  shardstream stream explain 'ss://digits/train-*.tar' --position 1000 --count 5 --json`,
		Args: cobra.MinimumNArgs(1),
	}
	flags := command.Flags()
	flags.IntVar(&request.BatchSize, "batch-size", 256, "samples in a batch")
	flags.StringVar(&request.Shuffle, "shuffle", "global", "order: global, window, shards or none")
	flags.Uint64Var(&request.Seed, "seed", 0, "seed of the order")
	flags.BoolVar(&request.DropLast, "drop-last", false, "the job leaves out a last step that is not full")
	flags.IntVar(&request.WorldSize, "world-size", 1, "number of ranks of the job")
	flags.IntVar(&request.Rank, "rank", 0, "which of the ranks")
	flags.Uint64Var(&request.Epoch, "epoch", 0, "which epoch")
	flags.Int64Var(&request.Batch, "batch", 0, "which batch of the rank, counted from 0")
	flags.Int64Var(&request.Start, "start", 0, "position at which the job was resumed in this epoch")
	flags.Int64Var(&position, "position", -1, "instead of a batch, a position of the epoch")
	flags.Int64Var(&request.Count, "count", 1, "number of positions")
	flags.StringVar(&request.Snapshot, "snapshot", "", "id of the job's snapshot, if the data changed since")
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, sources []string) error {
		request.Sources = sources
		if c.Flags().Changed("position") {
			request.Position = &position
		}
		return a.explain(c.Context(), request, *asJSON)
	}
	return command
}

func (a *app) explain(ctx context.Context, request api.ExplainRequest, asJSON bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	e, err := client.Explain(ctx, request)
	if err != nil {
		return err
	}
	if asJSON {
		return a.printJSON(e)
	}
	what := fmt.Sprintf("batch %d of rank %d of %d", e.Batch, e.Rank, e.WorldSize)
	if e.Batch < 0 {
		what = fmt.Sprintf("positions %d to %d", e.Position, e.Next-1)
	}
	a.printf("epoch %d, %s: seed %d, shuffle %s, snapshot %.12s\n", e.Epoch, what, e.Seed, e.Shuffle, e.Snapshot)
	if e.Padding {
		a.printf("this rank has no sample in this step and repeats one that is another's, masked\n")
	}
	return a.table("POSITION\tSAMPLE\tKEY\tSHARD\tINDEX\tVERSION\tTARGET", func(w io.Writer) {
		for i := range e.Samples {
			s := &e.Samples[i]
			key := s.Key
			if s.Error != "" {
				key = "(" + s.Error + ")"
			}
			fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%d\t%d\t%s\n", s.Position, s.Sample, key, s.Shard, s.Index, s.Version, s.Target)
		}
	})
}
