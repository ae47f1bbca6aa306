package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newETLLs(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "ls",
		Short:   "List transformations and how they are",
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
		return a.table("NAME\tVERSION\tKIND\tLEVEL\tSTATE\tREADY\tREQUESTS\tERRORS\tRESTARTS\tQUEUE\tMEAN\tP99", func(w io.Writer) {
			for i := range etls {
				e := &etls[i]
				s := e.Status
				if s == nil { // of a gateway of another release
					s = &api.ETLStatus{}
				}
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%d/%d\t%d\t%d\t%d\t%d\t%s\t%s\n", e.Name, e.Version, e.Kind, e.Level, s.State, s.Ready, s.Wanted,
					s.Stats.Requests, s.Stats.Errors, s.Stats.Restarts, s.Stats.Waiting, latency(&s.Stats, s.Stats.Latency.MeanS), latency(&s.Stats, s.Stats.Latency.P99S))
			}
		})
	}
	return command
}

// latency prints seconds, "-" where nothing was measured.
func latency(s *api.ETLStats, seconds float64) string {
	if s.Requests == 0 {
		return "-"
	}
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Microsecond).String()
}

func newETLShow(a *app) *cobra.Command {
	var source bool
	command := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a transformation, how it is on each target, and its source",
		Example: `  shardstream etl show augment
  shardstream etl show augment --source > augment.py`,
		Args: named(cobra.ExactArgs(1)),
	}
	asJSON := jsonFlag(command)
	command.Flags().BoolVar(&source, "source", false, "print the source of a function and nothing else")
	command.RunE = func(c *cobra.Command, args []string) error {
		if source && *asJSON {
			return usagef("--source and --json exclude each other")
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		e, err := client.ETL(c.Context(), args[0])
		switch {
		case err != nil:
			return err
		case source && e.Source == "":
			return fmt.Errorf("etl %s has no source: it is a %s", e.Name, pickledOr(&e))
		case source:
			a.printf("%s", e.Source)
			return nil
		case *asJSON:
			return a.printJSON(e)
		}
		a.showETL(&e)
		return a.showTargets(&e)
	}
	return command
}

func pickledOr(e *api.ETL) string {
	if len(e.Pickle) > 0 {
		return "pickled function"
	}
	return e.Kind
}

// showETL prints a definition, a line for each kind of thing that it says.
func (a *app) showETL(e *api.ETL) {
	line := func(label, format string, args ...any) { a.printf("%-10s  %s\n", label, fmt.Sprintf(format, args...)) }
	optional := func(label, text string) {
		if text != "" {
			line(label, "%s", text)
		}
	}
	line("name", "%s", e.Name)
	line("version", "%d, deployed %s", e.Version, e.Created.Local().Format(time.DateTime))
	what := pickledOr(e) + ", level " + e.Level
	if e.Entry != "" {
		what += ", entry " + e.Entry
	}
	line("kind", "%s", what)
	optional("requires", strings.Join(e.Requirements, ", "))
	optional("python", e.Python)
	optional("image", e.Image)
	optional("url", e.URL)
	optional("command", strings.Join(e.Command, " "))
	if e.Kind != "function" {
		line("transport", "%s", e.Transport)
	}
	optional("args", string(e.Args))
	optional("env", strings.Join(slices.Sorted(maps.Keys(e.Env)), ", ")) // values may be secret: they are in --json
	if e.Port > 0 {
		line("port", "%d", e.Port)
	}
	optional("fields", strings.Join(e.Fields, ", "))
	limits := fmt.Sprintf("%v s for each, %s of memory, %s of output", e.TimeoutS, size(e.Memory), size(e.MaxOutput))
	if e.CPUs > 0 {
		limits += fmt.Sprintf(", %g CPUs", e.CPUs)
	}
	line("limits", "%s", limits)
	line("network", "%s", e.Network)
	optional("isolation", isolationOf(e))
}

// isolationOf says at which level it runs and what that confines; by target where they differ.
func isolationOf(e *api.ETL) string {
	var texts []string
	by := map[string][]string{}
	if e.Status != nil {
		for _, t := range e.Status.Targets {
			if t.Health.Isolation == "" {
				continue
			}
			text := t.Health.Isolation
			if len(t.Health.Confined) > 0 {
				text += " (" + strings.Join(t.Health.Confined, ", ") + ")"
			}
			if by[text] == nil {
				texts = append(texts, text)
			}
			by[text] = append(by[text], t.ID)
		}
	}
	if len(texts) > 1 {
		for i, text := range texts {
			texts[i] = strings.Join(by[text], ", ") + ": " + text
		}
	}
	if e.Isolation != "" {
		texts = append(texts, "at least "+e.Isolation)
	}
	return strings.Join(texts, "; ")
}

// showTargets prints how it is on each target, and the source.
func (a *app) showTargets(e *api.ETL) error {
	if s := e.Status; s != nil {
		a.printf("%-10s  %s, ready on %d of %d targets\n\n", "state", s.State, s.Ready, s.Wanted)
		if err := a.targetTable(s); err != nil {
			return err
		}
	}
	if e.Source != "" {
		a.printf("\n%s", e.Source)
	}
	return nil
}

func (a *app) targetTable(s *api.ETLStatus) error {
	return a.table("TARGET\tVERSION\tPYTHON\tWORKERS\tREQUESTS\tSAMPLES\tERRORS\tRESTARTS\tQUEUE\tIN\tOUT\tMEAN\tP99\tSTATE", func(w io.Writer) {
		for i := range s.Targets {
			t := &s.Targets[i]
			python := t.Health.Python
			if python == "" {
				python = "-"
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%d/%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", t.ID, t.Version, python, t.Stats.Running, t.Stats.Workers,
				t.Stats.Requests, t.Stats.Samples, t.Stats.Errors, t.Stats.Restarts, t.Stats.Waiting, size(t.Stats.BytesIn), size(t.Stats.BytesOut),
				latency(&t.Stats, t.Stats.Latency.MeanS), latency(&t.Stats, t.Stats.Latency.P99S), stateText(t.Health))
		}
	})
}

func newETLRestart(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "restart NAME",
		Short:   "Replace a transformation's workers by new ones",
		Long:    "restart replaces the workers on every target; what they have in hand is finished first. An environment\nthat could not be built is tried again.",
		Example: "  shardstream etl restart augment",
		Args:    named(cobra.ExactArgs(1)),
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		status, err := client.RestartETL(c.Context(), args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(status)
		}
		a.printf("restarted etl %s, ready on %d of %d targets\n", args[0], status.Ready, status.Wanted)
		return nil
	}
	return command
}

func newETLLogs(a *app) *cobra.Command {
	var target string
	command := &cobra.Command{
		Use:   "logs NAME",
		Short: "Show what a transformation's environment and workers printed",
		Example: `  shardstream etl logs augment
  shardstream etl logs augment --target target-2`,
		Args: named(cobra.ExactArgs(1)),
	}
	command.Flags().StringVar(&target, "target", "", "show that of one target only")
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		var b strings.Builder
		if !*asJSON {
			return a.copyETLLogs(c.Context(), args[0], target, a.out)
		}
		if err := a.copyETLLogs(c.Context(), args[0], target, &b); err != nil {
			return err
		}
		return a.printJSON(map[string]string{"name": args[0], "log": b.String()})
	}
	return command
}

// copyETLLogs is the one call whose answer is text, which is why it is not in the client.
func (a *app) copyETLLogs(ctx context.Context, name, target string, to io.Writer) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, api.DefaultTimeout)
	defer cancel()
	at := client.Endpoint() + "/v1/etls/" + url.PathEscape(name) + "/logs"
	if target != "" {
		at += "?" + url.Values{"target": {target}}.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
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
	_, err = io.Copy(to, answer.Body)
	return err
}
