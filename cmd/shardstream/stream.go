package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/loader"
)

// streamFlags are the flags of `stream`.
type streamFlags struct {
	config  loader.Config
	mix     mixFlags
	run     loader.Run
	etlArgs string // JSON
	onError string
	budget  string // of errors
	decode  []string
	epochs  uint64
	limit   int64
	json    bool
}

// streamed is what `stream` measured of one epoch.
type streamed struct {
	Epoch      uint64  `json:"epoch"`
	Batches    int64   `json:"batches"`
	Samples    int64   `json:"samples"`
	Bytes      int64   `json:"bytes"`
	Seconds    float64 `json:"seconds"`
	SamplesPS  float64 `json:"samples_per_s"`
	BytesPS    float64 `json:"bytes_per_s"`
	FirstBatch float64 `json:"first_batch_s"`
	Skipped    int64   `json:"skipped"`
	Snapshot   string  `json:"snapshot"`
	WaitShare  float64 `json:"wait_share"` // of the epoch's time, spent waiting for batches
	BoundBy    string  `json:"bound_by"`   // as the loader's stats have it at the end
	Advice     string  `json:"advice"`

	Targets map[string]loader.TargetStats `json:"targets"` // since the first epoch
}

func newStream(a *app) *cobra.Command {
	f := &streamFlags{}
	command := &cobra.Command{
		Use:   "stream [ss://BUCKET/PATTERN|@MANIFEST...]",
		Short: "Read epochs of a data set as a training job would, and print the rate",
		Example: `  shardstream stream 'ss://digits/train-*.tar' --batch-size 256
  shardstream stream 'ss://digits/train-*.tar' --decode png=gray8,cls=int
  shardstream stream ss://photos/cats/ --samples objects --decode jpg=rgb8
  shardstream stream @ss://digits/train.txt @more.txt
  shardstream stream 'ss://digits/train-*.tar' --etl augment --epochs 3 --json
  shardstream stream 'ss://digits/train-*.tar' --etl crop,flip --etl-args '[{"size": 6}, null]'
  shardstream stream --mix 'ss://web/*.tar=0.7' --mix 'ss://books/*.tar=0.3' --interleave stratified`,
		Args: cobra.ArbitraryArgs, // sources may all be given with --mix
	}
	flags := command.Flags()
	flags.StringVar(&f.config.Samples, "samples", api.SamplesShards, "what the sources are: shards of samples, or objects that are one sample each")
	flags.IntVar(&f.config.BatchSize, "batch-size", 256, "samples in a batch")
	shuffleFlag(flags, &f.config.Shuffle)
	flags.Uint64Var(&f.config.Seed, "seed", 0, "seed of the order")
	flags.StringVar(&f.config.ETL, "etl", "", "transformation to apply, or several, separated by commas")
	flags.StringVar(&f.etlArgs, "etl-args", "", `arguments of the transformation as JSON, such as {"size": 224}; of several a list with one object or null for each`)
	flags.StringSliceVar(&f.config.Fields, "field", nil, "send only these fields of the samples")
	flags.StringSliceVar(&f.decode, "decode", nil, "decode a field: FIELD=DECODER, or FIELD:MEMBER=DECODER in JSON; rgb8, rgba8, gray8, int, float, text, npy, json, bytes; in JSON also bool")
	flags.BoolVar(&f.config.DropLast, "drop-last", false, "leave out a last step that is not full")
	f.mix.register(command)
	flags.StringVar(&f.onError, "on-error", "raise", "what a bad sample does: raise, skip or warn")
	flags.StringVar(&f.budget, "max-errors", "", "bad samples that an epoch may skip: a number, or a part such as 0.01 or 1%")
	flags.BoolVar(&f.config.Pad, "pad", false, "fill every batch up to the batch size, with masked rows")
	flags.IntVar(&f.config.Prefetch, "prefetch", 4, "batches to assemble ahead")
	flags.DurationVar(&f.config.Timeout, "timeout", time.Minute, "give up after so long without progress")
	flags.BoolVar(&f.config.SharedMemory, "shared-memory", api.SharedMemory(),
		"let targets of this machine write into the loader's memory instead of sending over TCP")
	flags.StringVar(&f.config.Compress, "compress", "auto",
		"when samples travel compressed: auto (bytes that shrink, on slow links), lz4 (bytes that shrink), off")
	flags.Uint64Var(&f.run.Epoch, "epoch", 0, "first epoch to read")
	flags.Uint64Var(&f.epochs, "epochs", 1, "number of epochs to read")
	flags.IntVar(&f.run.World, "world-size", 1, "number of ranks of the job")
	flags.IntVar(&f.run.Rank, "rank", 0, "which of the ranks to be")
	flags.Int64Var(&f.limit, "batches", 0, "stop each epoch after so many batches; 0 for all")
	flags.BoolVar(&f.json, "json", false, "print JSON, for scripts")
	command.RunE = func(c *cobra.Command, sources []string) error {
		sources, err := readManifests(sources)
		if err != nil {
			return err
		}
		f.config.Sources = sources
		if f.etlArgs != "" {
			f.config.ETLArgs = json.RawMessage(f.etlArgs)
		}
		if _, err := etl.ParseChain(f.config.ETL, f.config.ETLArgs); err != nil {
			return usagef("--etl and --etl-args: %v", err)
		}
		if f.config.Mixture, err = f.mix.mixture(sources, f.config.Shuffle, f.config.ETL, f.config.ETLArgs); err != nil {
			return err
		}
		if f.config.Mixture != nil {
			f.config.Shuffle, f.config.ETL, f.config.ETLArgs = "", "", nil // each source has its own
		}
		f.config.OnError = loader.Policy(f.onError)
		f.run.Workers = 1
		f.config.ReadAhead = f.epochs > 1
		return a.stream(c.Context(), f)
	}
	command.AddCommand(newStreamExplain(a))
	return command
}

func (f *streamFlags) check() error {
	switch {
	case f.run.World < 1:
		return usagef("--world-size must be 1 or more, not %d", f.run.World)
	case f.run.Rank < 0 || f.run.Rank >= f.run.World:
		return usagef("--rank must be 0 to %d in a world of %d, not %d", f.run.World-1, f.run.World, f.run.Rank)
	case f.epochs < 1:
		return usagef("--epochs must be 1 or more, not %d", f.epochs)
	case f.config.Prefetch < 1:
		return usagef("--prefetch must be 1 or more, not %d", f.config.Prefetch)
	case f.config.Timeout <= 0:
		return usagef("--timeout must be more than 0, not %v", f.config.Timeout)
	case f.limit < 0:
		return usagef("--batches must be 0 or more, not %d", f.limit)
	}
	if f.budget != "" {
		var err error
		if f.config.MaxErrors, err = loader.ParseBudget(f.budget); err != nil {
			return &usageError{err.Error()}
		}
	}
	var err error
	f.config.Decode, err = decoders(f.decode)
	return err
}

// readManifests puts the objects that local lists (@FILE) name in their place. Lists in the cluster
// (@ss://...) are a gateway's to read.
func readManifests(sources []string) ([]string, error) {
	var out []string
	for _, source := range sources {
		path, ok := strings.CutPrefix(source, api.ManifestPrefix)
		if !ok || strings.HasPrefix(path, api.Scheme) {
			out = append(out, source)
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the manifest: %w", err)
		}
		addresses, err := api.ParseManifest(data)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", path, err)
		}
		for _, address := range addresses {
			out = append(out, api.ExactPrefix+address)
		}
	}
	return out, nil
}

// decoders makes the description of a stream's decoders from FIELD=DECODER and FIELD:MEMBER=DECODER.
func decoders(flags []string) (map[string]any, error) {
	description := map[string]any{}
	for _, flag := range flags {
		name, decoder, ok := strings.Cut(flag, "=")
		if !ok || name == "" || decoder == "" {
			return nil, usagef("--decode %q does not read FIELD=DECODER", flag)
		}
		at, path := description, strings.Split(name, ":") // not at dots, which fields have
		for _, part := range path[:len(path)-1] {
			inner, ok := at[part].(map[string]any)
			if !ok && at[part] != nil {
				return nil, usagef("--decode %q: %s is decoded as a whole already", flag, part)
			}
			if !ok {
				inner = map[string]any{}
				at[part] = inner
			}
			at = inner
		}
		last := path[len(path)-1]
		if at[last] != nil {
			return nil, usagef("--decode names %s twice", name)
		}
		at[last] = decoder
	}
	return description, nil
}

func (a *app) stream(ctx context.Context, f *streamFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	l, err := loader.New(f.config, client)
	if err != nil {
		return &usageError{err.Error()}
	}
	defer l.Close()
	var epochs []streamed
	for range f.epochs {
		epoch, err := a.streamEpoch(ctx, client, l, f)
		if err != nil {
			return err
		}
		epochs = append(epochs, epoch)
		if !f.json {
			a.printEpoch(epoch)
		}
		f.run.Epoch++
	}
	if f.json {
		return a.printJSON(map[string][]streamed{"epochs": epochs})
	}
	return nil
}

func (a *app) printEpoch(s streamed) {
	a.printf("epoch %d: %d samples in %d batches, %s in %.2f s: %.0f samples/s, %s, first batch after %.0f ms\n",
		s.Epoch, s.Samples, s.Batches, size(s.Bytes), s.Seconds, s.SamplesPS,
		rate(s.Bytes, time.Duration(s.Seconds*float64(time.Second))), s.FirstBatch*1000)
	if s.Skipped > 0 {
		a.printf("  %d samples could not be delivered and were skipped\n", s.Skipped)
	}
	if s.BoundBy != loader.BoundOpening { // one batch says nothing on what bounds a run
		a.printf("  %s\n", s.Advice)
	}
}

func (a *app) streamEpoch(ctx context.Context, client *api.Client, l *loader.Loader, f *streamFlags) (streamed, error) {
	info, err := client.AwaitStream(ctx, api.StreamRequest{
		Sources: f.config.Sources, Samples: f.config.Samples, BatchSize: f.config.BatchSize, Shuffle: f.config.Shuffle, Seed: f.config.Seed,
		ETL: f.config.ETL, ETLArgs: f.config.ETLArgs, Fields: f.config.Fields, Decode: f.config.Decode, WorldSize: f.run.World, Rank: f.run.Rank, DropLast: f.config.DropLast,
		Mixture: f.config.Mixture, Epoch: f.run.Epoch, Ahead: f.run.Position == 0,
	})
	if err != nil {
		return streamed{}, err
	}
	total := info.Batches
	if f.limit > 0 {
		total = min(total, f.limit)
	}
	p := a.progressOf("batches", total, f.json)
	defer p.close()
	before, started := l.Stats(), time.Now()
	if err := l.Start(f.run); err != nil { //nolint:contextcheck // ended by Close, which follows the context here
		return streamed{}, err
	}
	result := streamed{Epoch: f.run.Epoch}
	for f.limit == 0 || result.Batches < f.limit {
		slot, _, err := l.Next(50 * time.Millisecond) //nolint:contextcheck // in slices, so that Ctrl-C is heard; ended by Close
		switch {
		case ctx.Err() != nil:
			return result, context.Canceled
		case errors.Is(err, loader.ErrTimeout):
			continue
		case errors.Is(err, loader.ErrEnd):
			return result.finish(before, l.Stats(), time.Since(started)), nil
		case err != nil:
			return result, err
		}
		if result.Batches == 0 {
			result.FirstBatch = time.Since(started).Seconds()
		}
		result.Batches++
		p.add(1)
		if err := l.Release(slot); err != nil {
			return result, err
		}
	}
	return result.finish(before, l.Stats(), time.Since(started)), nil
}

func (s streamed) finish(before, after loader.Stats, took time.Duration) streamed {
	s.Samples, s.Bytes = after.Samples-before.Samples, after.Bytes-before.Bytes
	s.WaitShare = (after.WaitSeconds - before.WaitSeconds) / took.Seconds()
	s.BoundBy, s.Advice = after.BoundBy, after.Advice
	s.Skipped, s.Snapshot = after.Skipped-before.Skipped, after.Snapshot
	s.Targets = after.Targets
	s.Seconds = took.Seconds()
	s.SamplesPS, s.BytesPS = float64(s.Samples)/took.Seconds(), float64(s.Bytes)/took.Seconds()
	return s
}
