package main

import (
	"context"
	"fmt"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

// deployInterval is how often the targets are asked how far they are.
const deployInterval = 500 * time.Millisecond

// deploy has the targets make a transformation ready, tells on stderr what each is at, and deploys it. When the context
// ends before, nothing was deployed.
func (a *app) deploy(ctx context.Context, client *api.Client, definition api.ETL, quiet bool) (api.ETL, error) {
	type answer struct {
		etl api.ETL
		err error
	}
	done := make(chan answer, 1)
	go func() { // ends with the request
		e, err := client.PutETL(ctx, definition)
		done <- answer{e, err}
	}()
	told := map[string]string{}
	for tick := time.NewTicker(deployInterval); ; {
		select {
		case got := <-done:
			tick.Stop()
			return got.etl, got.err
		case <-tick.C:
		}
		status, err := client.ETLStatus(ctx, definition.Name)
		if err != nil || quiet {
			continue // nobody tries it yet, or any more
		}
		for _, target := range status.Targets {
			if target.Candidate == nil {
				continue
			}
			line := stateText(*target.Candidate)
			if told[target.ID] != line {
				told[target.ID] = line
				fmt.Fprintf(a.err, "%s: %s\n", target.ID, line)
			}
		}
	}
}

// stateText is a state and its detail for people.
func stateText(h api.ETLHealth) string {
	if h.Detail == "" {
		return h.State
	}
	return h.State + ": " + h.Detail
}
