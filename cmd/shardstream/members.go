package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

const drainPoll = 500 * time.Millisecond

func newNodeDrain(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "drain NODE",
		Short: "Move all that a target has to the others, so that it can be removed",
		Long: `drain has a target take nothing new, and give what it has to the others. Reads and
writes go on. Once the target is drained, ` + "`node rm`" + ` takes it out of the cluster;
--cancel has it take part again, before or after.`,
		Example: "  shardstream node drain target-3 --wait\n  shardstream node drain target-3 --cancel",
		Args:    cobra.ExactArgs(1),
	}
	flags := command.Flags()
	wait := flags.Bool("wait", false, "return when the target is drained")
	cancel := flags.Bool("cancel", false, "have the target take part again")
	timeout := flags.Duration("timeout", 0, "give up waiting after this long, such as 1h (never)")
	command.RunE = func(c *cobra.Command, args []string) error {
		if *wait && *cancel {
			return usagef("--wait and --cancel exclude each other")
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		node, err := client.Drain(c.Context(), args[0], !*cancel)
		if err != nil {
			return err
		}
		if !*wait {
			a.printf("%s: %s\n", node.ID, nodeState(node))
			return nil
		}
		ctx := c.Context()
		if *timeout > 0 {
			var stop context.CancelFunc
			ctx, stop = context.WithTimeout(ctx, *timeout)
			defer stop()
		}
		return a.awaitDrained(ctx, client, node.ID)
	}
	return command
}

// awaitDrained reports how far a drain is, until it is done.
func (a *app) awaitDrained(ctx context.Context, client *api.Client, id string) error {
	said := ""
	for {
		status, err := client.Status(ctx)
		if err != nil {
			return err
		}
		node, ok := api.Node{}, false
		for _, n := range status.Nodes {
			if n.ID == id {
				node, ok = n, true
			}
		}
		switch {
		case !ok:
			return fmt.Errorf("%s is no member any more", id)
		case node.Drained:
			a.printf("%s: %s\n", id, nodeState(node))
			return nil
		case !node.Draining:
			return fmt.Errorf("somebody had %s take part again", id)
		}
		if line := drainProgress(status.Rebalance, id); line != said {
			said = line
			a.printf("%s: %s\n", id, line)
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return fmt.Errorf("%s is still being drained, and goes on so; `shardstream status` tells how far it is", id)
		}
	}
}

func drainProgress(r api.Rebalance, id string) string {
	for _, t := range r.Targets {
		if t.ID == id && t.Total > 0 {
			progress := fmt.Sprintf("draining, %d of %d objects looked at, %d copies moved", t.Objects, t.Total, t.Moved)
			if len(r.Reasons) > 0 {
				progress += "; " + strings.Join(r.Reasons, "; ")
			}
			return progress
		}
	}
	if len(r.Reasons) > 0 {
		return "draining, rebalance " + r.State + ": " + strings.Join(r.Reasons, "; ")
	}
	return "draining, rebalance " + r.State
}

func newNodeRm(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "rm NODE",
		Short: "Take a node out of the cluster",
		Long: `rm takes a node out of the cluster; its process ends. A target has to be drained
first. With --force it need not be, as where it is broken for good: objects of
which it has the only copy are lost then. Its id can be taken again by a node
with empty data directories only.`,
		Example: "  shardstream node rm target-3\n  shardstream node rm target-3 --force",
		Args:    cobra.ExactArgs(1),
	}
	force := command.Flags().Bool("force", false, "remove a target that is not drained: what only it has is lost")
	command.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		if err := client.RemoveNode(c.Context(), args[0], *force); err != nil {
			return err
		}
		a.printf("%s: removed\n", args[0])
		return nil
	}
	return command
}

func newNodeToken(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "token",
		Short: "Make a token that one new node can join the cluster with",
		Long: `token makes a token for ` + "`node run --token`" + `. It lets one new node in, once. A cluster
whose gateways can be reached from other machines takes new nodes with a token
only; nodes that are members need none when they start again.`,
		Example: "  shardstream node token --valid 24h",
		Args:    cobra.NoArgs,
	}
	valid := command.Flags().Duration("valid", time.Hour, "how long the token is valid")
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, _ []string) error {
		if *valid < time.Second {
			return usagef("--valid must be a second or more, not %v", *valid)
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		token, err := client.NewToken(c.Context(), *valid)
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(token)
		}
		a.printf("%s\n", token.Token)
		return nil
	}
	return command
}

// nodeState is a node's state in words.
func nodeState(n api.Node) string {
	words := []string{n.State}
	switch {
	case n.Drained:
		words = append(words, "drained")
	case n.Draining:
		words = append(words, "draining")
	}
	if n.Away {
		words = append(words, "away")
	}
	if n.Bare {
		words = append(words, "being refilled")
	}
	return strings.Join(words, ", ")
}
