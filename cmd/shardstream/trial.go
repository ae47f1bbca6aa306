package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newETLTest(a *app) *cobra.Command {
	var trial api.ETLTrial
	var definition api.ETL
	var arguments, file, output string
	command := &cobra.Command{
		Use:   "test NAME ss://BUCKET/KEY[?member=FILE]",
		Short: "Try a transformation on one object or sample",
		Long: `test runs a transformation on one object, on the target that has it, and shows
what comes out, how long it takes, what it prints, and its traceback where it
fails. Of an archive, a transformation of samples gets the first sample, or the
one that the member belongs to.

With --function it tries a file that need not be deployed, in the same sandbox,
and leaves nothing behind.`,
		Example: `  shardstream etl test augment ss://digits/train-0000.tar
  shardstream etl test augment 'ss://digits/train-0000.tar?member=000007.png' --args '{"size": 64}'
  shardstream etl test gray ss://photos/cat.jpg --function gray.py --level object -o gray.png`,
		Args: named(cobra.ExactArgs(2)),
	}
	flags := command.Flags()
	flags.StringVar(&trial.Member, "member", "", "file inside the archive, as behind ?member=")
	flags.StringVar(&arguments, "args", "", `arguments as JSON, such as {"size": 224}`)
	flags.StringVar(&file, "function", "", "try this Python file instead of what is deployed")
	flags.StringVar(&definition.Entry, "entry", "", "with --function: name of the function (transform)")
	flags.StringVar(&definition.Level, "level", "", "with --function: sample, batch or object (sample)")
	flags.StringArrayVar(&definition.Requirements, "requirement", nil, "with --function: Python package that it needs; may be repeated")
	flags.StringVarP(&output, "output", "o", "", "write what comes out to this file, - for stdout: bytes, or a tar of a sample")
	asJSON := jsonFlag(command)
	_ = command.MarkFlagFilename("function", "py")
	command.RunE = func(c *cobra.Command, args []string) error {
		if file == "" && (definition.Entry != "" || definition.Level != "" || len(definition.Requirements) > 0) {
			return usagef("--entry, --level and --requirement go with --function only")
		}
		if file != "" {
			source, err := readSource(file)
			if err != nil {
				return err
			}
			definition.Kind, definition.Source = "function", source
			trial.Definition = &definition
		}
		var err error
		if trial.Args, err = jsonObject("--args", arguments); err != nil {
			return err
		}
		address, member, _ := strings.Cut(args[1], "?member=")
		if _, _, err := objectAddress(address); err != nil {
			return err
		}
		if trial.Address = address; member != "" {
			trial.Member = member
		}
		trial.Data = output != ""
		client, err := a.client()
		if err != nil {
			return err
		}
		result, err := client.TestETL(c.Context(), args[0], trial)
		if err != nil {
			return err
		}
		return a.showTrial(result, output, *asJSON)
	}
	return command
}

// showTrial prints what a trial came to. One that failed is an error.
func (a *app) showTrial(r api.ETLResult, output string, asJSON bool) error {
	data := r.Data
	if r.Data = nil; r.Error == nil && output != "" {
		if err := a.writeOutput(output, data); err != nil {
			return err
		}
	}
	if output == "-" {
		return failed(r)
	}
	if asJSON {
		return errors.Join(a.printJSON(r), failed(r))
	}
	version := fmt.Sprintf("version %d", r.Version)
	if r.Version == 0 {
		version = "not deployed"
	}
	a.printf("%s (%s, level %s) on %s, at %s: %.3f s, after %.3f s to begin\n", r.ETL, version, r.Level, r.Key, r.Target, r.TookS, r.PrepareS)
	if len(r.Fields) > 0 {
		if err := a.table("FIELD\tDTYPE\tSHAPE\tSIZE\tVALUE", func(w io.Writer) {
			for _, f := range r.Fields {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Name, f.DType, shapeText(f.Shape), size(f.Size), strings.Trim(fmt.Sprintf("%q", f.Text), `"`))
			}
		}); err != nil {
			return err
		}
	} else if r.Error == nil {
		a.printf("%s of %s\n", size(r.Size), r.ContentType)
	}
	if r.Log != "" && !(r.Error != nil && strings.Contains(r.Error.Message, strings.TrimSpace(r.Log))) { // what a build printed is in both
		a.printf("it printed:\n%s\n", strings.TrimSuffix(r.Log, "\n"))
	}
	return failed(r)
}

func failed(r api.ETLResult) error {
	if r.Error == nil {
		return nil
	}
	return r.Error
}

func (a *app) writeOutput(path string, data []byte) error {
	if path == "-" {
		_, err := a.out.Write(data)
		return err
	}
	return os.WriteFile(path, data, 0o666) //nolint:gosec // the user's umask decides
}

func shapeText(shape []int64) string {
	text := make([]string, len(shape))
	for i, n := range shape {
		text[i] = fmt.Sprint(n)
	}
	return strings.Join(text, "x")
}
