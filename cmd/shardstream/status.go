package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newStatus(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster's state, its nodes and disks",
		Long: `status shows the cluster's state, its nodes and disks. It fails (exit code 1)
where no gateway answers; a degraded cluster is shown, and no failure.`,
		Example: "  shardstream status\n  shardstream status --json",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		status, err := client.Status(c.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			status.Nodes = withDisks(orEmpty(status.Nodes))
			return a.printJSON(status)
		}
		a.printf("%s: %s, version %s, map %d, rebalance %s\n\n", status.Endpoint, status.State, status.Version, status.Map, status.Rebalance.State)
		return a.printNodes(status.Nodes)
	}
	return command
}

func newNodeLs(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "ls",
		Short:   "List the nodes of the cluster",
		Example: "  shardstream node ls --json",
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		nodes, err := client.Nodes(c.Context())
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(api.NodeList{Nodes: withDisks(orEmpty(nodes))})
		}
		return a.printNodes(nodes)
	}
	return command
}

// withDisks gives every node its list of disks, be it empty, so that scripts need not ask.
func withDisks(nodes []api.Node) []api.Node {
	for i := range nodes {
		nodes[i].Disks = orEmpty(nodes[i].Disks)
	}
	return nodes
}

func (a *app) printNodes(nodes []api.Node) error {
	return a.table("NODE\tROLE\tSTATE\tADDRESS\tPID\tUSED\tCAPACITY", func(w io.Writer) {
		for _, n := range nodes {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t\t\n", n.ID, n.Role, nodeState(n), n.Addr, n.PID)
			for _, d := range n.Disks {
				fmt.Fprintf(w, "  %s\t\t%s\t%s\t\t%s\t%s\n", d.ID, d.State, d.Path, size(d.Used), size(d.Capacity))
			}
		}
	})
}
