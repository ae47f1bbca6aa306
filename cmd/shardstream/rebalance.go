package main

import (
	"context"
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newRebalance(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "rebalance",
		Short: "Watch, stop and start the movement of objects",
		Long: `rebalance is about the movement of objects in the background: after targets joined,
left or died, after disks were lost, and after a bucket was given other redundancy,
each object is brought to where it belongs. It starts by itself.`,
	}
	command.AddCommand(
		newRebalanceVerb(a, "status", "Show how far it is", (*api.Client).Rebalance),
		newRebalanceVerb(a, "start", "Have all targets look at all that they have again; go on after a stop", (*api.Client).StartRebalance),
		newRebalanceVerb(a, "stop", "Move nothing, and delete nothing that was moved, until the next start", (*api.Client).StopRebalance),
	)
	return command
}

func newRebalanceVerb(a *app, verb, short string, act func(*api.Client, context.Context) (api.Rebalance, error)) *cobra.Command {
	command := &cobra.Command{
		Use:     verb,
		Short:   short,
		Example: "  shardstream rebalance " + verb,
		Args:    cobra.NoArgs,
	}
	asJSON := jsonFlag(command)
	wait := new(bool)
	if verb != "stop" {
		command.Example += " --wait"
		wait = command.Flags().Bool("wait", false, "wait until everything is where it belongs")
	}
	command.RunE = func(c *cobra.Command, _ []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		r, err := act(client, c.Context())
		if err == nil && *wait {
			r, err = a.waitRebalance(c.Context(), client, *asJSON)
		}
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(r)
		}
		a.showRebalance(&r)
		if *wait && r.State == api.RebalanceStopped {
			return fmt.Errorf("the rebalance is stopped; `shardstream rebalance start` has it go on")
		}
		return nil
	}
	return command
}

// waitRebalance shows how far it is until nothing is left: a bar on a terminal, a line now and then elsewhere.
func (a *app) waitRebalance(ctx context.Context, client *api.Client, quiet bool) (api.Rebalance, error) {
	p := a.progressOf("rebalance", -1, quiet, progressbar.OptionShowIts(), progressbar.OptionSetItsString("objects"))
	defer p.close()
	var printed time.Time
	var shown int64
	return client.WaitRebalance(ctx, func(r api.Rebalance) {
		if p.bar != nil {
			p.bar.ChangeMax64(max(r.Total, 1))
			p.bar.Describe("rebalance, " + rebalanceText(&r))
			p.add(int(max(r.Objects-shown, 0)))
			shown = max(shown, r.Objects)
			return
		}
		if r.State != api.RebalanceIdle && time.Since(printed) >= plainInterval {
			printed = time.Now()
			p.done("rebalance %s", rebalanceText(&r))
		}
	})
}

func rebalanceText(r *api.Rebalance) string {
	text := fmt.Sprintf("%s: %d of %d objects, %d copies made (%s)", r.State, r.Objects, r.Total, r.Moved, size(r.Bytes))
	if r.ETAS > 0 {
		text += fmt.Sprintf(", %v to go", time.Duration(r.ETAS+0.5)*time.Second)
	}
	return text
}

func (a *app) showRebalance(r *api.Rebalance) {
	a.printf("rebalance\t%s, map %d\n", r.State, r.Map)
	a.printf("objects\t%d of %d looked at, %d copies made (%s), %d removed, %d failed\n", r.Objects, r.Total, r.Moved, size(r.Bytes), r.Deleted, r.Failed)
	if r.Rate > 0 {
		a.printf("rate\t%s/s\n", size(int64(r.Rate)))
	}
	for _, reason := range r.Reasons {
		a.printf("waits\t%s\n", reason)
	}
	for _, t := range r.Targets {
		if t.Detail != "" {
			a.printf("%s\t%s\n", t.ID, t.Detail)
		}
	}
}
