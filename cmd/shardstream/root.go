package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

// app is what all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer
	endpoint string
	started  bool // a command's own work began: an error is no longer one of usage
}

// usageError is a mistake in the command line that a command found itself.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// errSilent fails a command that has said all there is to say.
var errSilent = errors.New("failed")

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "shardstream",
		Short: "Storage for training data that does the data loader's work",
		Long: `shardstream keeps shards of training data on a cluster, and streams shuffled,
transformed batches of their samples into Python.

The cluster is found by --endpoint or SHARDSTREAM_ENDPOINT, a token by
SHARDSTREAM_TOKEN. Exit codes: 0 done, 1 failed, 2 wrong usage.`,
		Example: `  shardstream up --detach                       # a cluster on this machine
  shardstream bucket create digits
  shardstream put train-*.tar ss://digits/
  shardstream ls ss://digits/
  shardstream sync ss://digits/ s3://my-bucket/digits/
  shardstream down`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.PersistentFlags().StringVar(&a.endpoint, "endpoint", envOr("SHARDSTREAM_ENDPOINT", api.DefaultEndpoint),
		"URL of any gateway of the cluster, or of several, separated by commas (SHARDSTREAM_ENDPOINT)")
	root.AddCommand(
		newUp(a), newDown(a), newStatus(a), newNode(a),
		newBucket(a), newPut(a), newGet(a), newCat(a), newLs(a), newRm(a), newCp(a), newSync(a), newObject(a),
		newETL(a), newJob(a), newDataset(a), newStream(a), newRebalance(a), newScrub(a), newFsck(a),
		newPrefetch(a), newEvict(a), newSecret(a), newVersion(a),
	)
	harden(root, a)
	return root
}

// harden gives every command of the tree the same manners: groups refuse unknown words instead of
// showing their help with exit code 0, and app.started is set when a command's own work begins.
func harden(command *cobra.Command, a *app) {
	for _, sub := range command.Commands() {
		harden(sub, a)
	}
	if work := command.RunE; work != nil {
		command.RunE = func(c *cobra.Command, args []string) error {
			a.started = true
			return work(c, args)
		}
		return
	}
	if command.Run != nil || !command.HasSubCommands() {
		return
	}
	command.Args = cobra.ArbitraryArgs
	command.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("unknown command %q", args[0])
		}
		return c.Help()
	}
}

func envOr(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

// jsonFlag adds --json to a command.
func jsonFlag(command *cobra.Command) *bool {
	return command.Flags().Bool("json", false, "print JSON, for scripts")
}

// printJSON prints a document, indented as people read it too.
func (a *app) printJSON(document any) error {
	encoder := json.NewEncoder(a.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(document)
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }
