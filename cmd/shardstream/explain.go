package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

// explainFlags are the flags of `stream explain`.
type explainFlags struct {
	request  api.ExplainRequest
	mix      mixFlags
	position int64
}

func newStreamExplain(a *app) *cobra.Command {
	f := &explainFlags{}
	command := &cobra.Command{
		Use:   "explain [ss://BUCKET/PATTERN|@MANIFEST...]",
		Short: "Show which samples a batch has, and where they come from",
		Long: `Show which samples a batch has, and where they come from.

The order of an epoch is a function of the data, the seed, the epoch and the shuffle, so this reads no
sample and needs no running job: give the settings of the job, and the number of a batch of one rank.`,
		Example: `  shardstream stream explain 'ss://digits/train-*.tar' --epoch 3 --batch 9123
  shardstream stream explain 'ss://digits/train-*.tar' --position 1000 --count 5 --json
  shardstream stream explain --mix 'ss://web/*.tar=0.7' --mix 'ss://books/*.tar=0.3' --batch 12`,
		Args: cobra.ArbitraryArgs, // sources may all be given with --mix
	}
	r, flags := &f.request, command.Flags()
	flags.StringVar(&r.Samples, "samples", api.SamplesShards, "what the sources are: shards of samples, or objects that are one sample each")
	flags.IntVar(&r.BatchSize, "batch-size", 256, "samples in a batch")
	shuffleFlag(flags, &r.Shuffle)
	flags.Uint64Var(&r.Seed, "seed", 0, "seed of the order")
	flags.BoolVar(&r.DropLast, "drop-last", false, "the job leaves out a last step that is not full")
	f.mix.register(command)
	flags.IntVar(&r.WorldSize, "world-size", 1, "number of ranks of the job")
	flags.IntVar(&r.Rank, "rank", 0, "which of the ranks")
	flags.Uint64Var(&r.Epoch, "epoch", 0, "which epoch")
	flags.Int64Var(&r.Batch, "batch", 0, "which batch of the rank, counted from 0")
	flags.Int64Var(&r.Start, "start", 0, "position at which the job was resumed in this epoch")
	flags.Int64Var(&f.position, "position", -1, "instead of a batch, a position of the epoch")
	flags.Int64Var(&r.Count, "count", 1, "number of positions")
	flags.StringVar(&r.Snapshot, "snapshot", "", "id of the job's snapshot, if the data changed since")
	command.MarkFlagsMutuallyExclusive("batch", "position")
	command.MarkFlagsMutuallyExclusive("batch", "count")
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, sources []string) error {
		if err := f.complete(sources, c.Flags().Changed); err != nil {
			return err
		}
		return a.explain(c.Context(), f.request, *asJSON)
	}
	return command
}

// complete makes a request of the flags and sources that were given.
func (f *explainFlags) complete(sources []string, given func(flag string) bool) error {
	r := &f.request
	sources, err := readManifests(sources)
	if err != nil {
		return err
	}
	r.Sources = sources
	if r.Mixture, err = f.mix.mixture(sources, r.Shuffle, "", nil); err != nil {
		return err
	}
	if r.Mixture != nil {
		r.Shuffle = "" // each source has its own
	}
	switch {
	case r.Count < 1:
		return usagef("--count must be 1 or more, not %d", r.Count)
	case given("position"):
		r.Position = &f.position
	case given("count"):
		return usagef("--count is of positions: say from which with --position")
	}
	return nil
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
	order := "shuffle " + e.Shuffle
	if e.Window > 0 {
		order += fmt.Sprintf(" (%d slices a shard, %d in a window)", e.Slices, e.Window)
	}
	if request.Mixture != nil {
		order = fmt.Sprintf("a mixture of %d sources", len(request.Mixture.Sources))
	}
	a.printf("epoch %d, %s: seed %d, %s, snapshot %.12s\n", e.Epoch, what, e.Seed, order, e.Snapshot)
	if e.Padding {
		a.printf("this rank has no sample in this step and repeats one that is another's, masked\n")
	}
	head := "POSITION\tSAMPLE\tKEY\tSHARD\tINDEX\tVERSION\tTARGET"
	if request.Mixture != nil {
		head += "\tSOURCE"
	}
	return a.table(head, func(w io.Writer) {
		for i := range e.Samples {
			s := &e.Samples[i]
			key := s.Key
			if s.Error != "" {
				key = "(" + s.Error + ")"
			}
			fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%d\t%d\t%s", s.Position, s.Sample, key, s.Shard, s.Index, s.Version, s.Target)
			if s.Source != nil {
				fmt.Fprintf(w, "\t%d", *s.Source)
			}
			fmt.Fprintln(w)
		}
	})
}
