package main

import (
	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newFsck(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "fsck",
		Short: "Read and verify all that the cluster holds",
		Long: `fsck has every target read and verify all that it holds. Exit code 0 only where
nothing is corrupt, missing or stray.`,
		Example: "  shardstream fsck --json",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		report, err := client.Fsck(c.Context())
		if err != nil {
			return err
		}
		report.Corrupt, report.Missing, report.Stray = orEmpty(report.Corrupt), orEmpty(report.Missing), orEmpty(report.Stray)
		if *asJSON {
			if err := a.printJSON(report); err != nil {
				return err
			}
		} else {
			a.printFindings("corrupt", report.Corrupt)
			a.printFindings("missing", report.Missing)
			a.printFindings("stray", report.Stray)
			a.printf("%d objects: %d corrupt, %d missing, %d stray\n", report.Objects, len(report.Corrupt), len(report.Missing), len(report.Stray))
		}
		if len(report.Corrupt)+len(report.Missing)+len(report.Stray) > 0 {
			return errSilent
		}
		return nil
	}
	return command
}

func (a *app) printFindings(kind string, findings []api.Finding) {
	for _, f := range findings {
		what := f.Object
		if what == "" {
			what = f.File
		}
		a.printf("%s\t%s\t%s on %s: %s\n", kind, what, f.Disk, f.Node, f.Detail)
	}
}
