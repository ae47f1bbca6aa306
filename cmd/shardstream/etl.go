package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

// maxSource bounds the source file of a transformation.
const maxSource = 1 << 20

func newETL(a *app) *cobra.Command {
	command := &cobra.Command{Use: "etl", Short: "Deploy and inspect transformations"}
	command.AddCommand(newETLCreate(a), newETLLs(a), newETLShow(a), newETLLogs(a), newETLRm(a))
	return command
}

func newETLCreate(a *app) *cobra.Command {
	var file string
	definition := api.ETL{Kind: "function"}
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "create NAME --function FILE.py",
		Short: "Deploy a Python function as a transformation, or replace it",
		Long: `create deploys a Python function beside every target. The file defines

    def transform(sample):    # level sample: a dict of field name to bytes
        ...
        return sample         # bytes, str, numbers or numpy arrays

or, with --level object, def transform(data): bytes in, bytes out.`,
		Example: `  shardstream etl create augment --function augment.py
  shardstream etl create gray --function gray.py --entry to_gray --workers 4`,
		Args: cobra.ExactArgs(1),
	}
	flags := command.Flags()
	flags.StringVar(&file, "function", "", "Python file that defines the function (required)")
	flags.StringVar(&definition.Entry, "entry", "transform", "name of the function")
	flags.StringVar(&definition.Level, "level", api.LevelSample, "what the function takes: sample or object")
	flags.IntVar(&definition.Workers, "workers", 0, "worker processes of each target, 0 for one per CPU")
	flags.DurationVar(&timeout, "timeout", 30*time.Second, "time limit for one sample")
	flags.StringSliceVar(&definition.Requirements, "requirement", nil, "Python package that the function needs")
	_ = command.MarkFlagFilename("function", "py")
	command.RunE = func(c *cobra.Command, args []string) error {
		if file == "" {
			return usagef("name the function's file with --function FILE.py")
		}
		if definition.Level != api.LevelSample && definition.Level != api.LevelObject {
			return usagef("--level must be %s or %s, not %q", api.LevelSample, api.LevelObject, definition.Level)
		}
		source, err := readSource(file)
		if err != nil {
			return err
		}
		definition.Name, definition.Source, definition.TimeoutS = args[0], source, timeout.Seconds()
		client, err := a.client()
		if err != nil {
			return err
		}
		deployed, err := client.PutETL(c.Context(), definition)
		if err != nil {
			return err
		}
		a.printf("deployed etl %s, version %d\n", deployed.Name, deployed.Version)
		return nil
	}
	return command
}

func readSource(path string) (string, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if stat.Size() > maxSource {
		return "", fmt.Errorf("%s has %s; a transformation's source has at most %s", path, size(stat.Size()), size(maxSource))
	}
	source, err := os.ReadFile(path)
	return string(source), err
}

func newETLLs(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "ls",
		Short:   "List transformations",
		Example: "  shardstream etl ls",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		etls, err := client.ETLs(c.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(api.ETLList{ETLs: orEmpty(etls)})
		}
		return a.table("NAME\tVERSION\tLEVEL\tENTRY\tCREATED", func(w io.Writer) {
			for _, e := range etls {
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", e.Name, e.Version, e.Level, e.Entry, e.Created.Local().Format(time.DateTime))
			}
		})
	}
	return command
}

func newETLShow(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a transformation and its source",
		Example: "  shardstream etl show augment",
		Args:    cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		e, err := client.ETL(c.Context(), args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(e)
		}
		a.printf("# %s, version %d, level %s, entry %s, %v s a sample\n%s", e.Name, e.Version, e.Level, e.Entry, e.TimeoutS, e.Source)
		return nil
	}
	return command
}

func newETLLogs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "logs NAME",
		Short:   "Show what a transformation's workers printed",
		Example: "  shardstream etl logs augment",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.copyETLLogs(c.Context(), args[0])
		},
	}
}

// copyETLLogs is the one call whose answer is text, which is why it is not in the client.
func (a *app) copyETLLogs(ctx context.Context, name string) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, api.DefaultTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, client.Endpoint()+"/v1/etls/"+url.PathEscape(name)+"/logs", nil)
	if err != nil {
		return err
	}
	if token := os.Getenv("SHARDSTREAM_TOKEN"); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return api.ErrorOf(answer)
	}
	_, err = io.Copy(a.out, answer.Body)
	return err
}

func newETLRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME...",
		Short:   "Remove transformations",
		Example: "  shardstream etl rm augment",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, names []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := client.DeleteETL(c.Context(), name); err != nil {
					return err
				}
				a.printf("removed etl %s\n", name)
			}
			return nil
		},
	}
}
