package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/transfer"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/backend/schemes"
)

// maxShown bounds the failures that a copy shows one by one.
const maxShown = 20

// transferFlags are what `cp` and `sync` have in common.
type transferFlags struct {
	jobs           int
	rate           sizeValue
	filter         transfer.Filter
	dryRun, json   bool
	quiet          bool
	opaque         bool
	contentType    string
	createBucket   bool
	followLinks    bool
	insecure       bool
	ca             string
	secrets        [2]string // files, of source and target
	source, target transfer.Access
}

func (f *transferFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.SortFlags = false
	flags.IntVarP(&f.jobs, "jobs", "j", 8, "files to copy at once")
	flags.Var(&f.rate, "rate", "bytes a second to copy at most, such as 50MB")
	flags.StringArrayVar(&f.filter.Include, "include", nil, "copy only files that match this pattern, such as '*.tar'; may be repeated")
	flags.StringArrayVar(&f.filter.Exclude, "exclude", nil, "leave out files that match this pattern, such as 'logs/'; may be repeated")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "say what would be done, and do nothing")
	flags.BoolVar(&f.createBucket, "create-bucket", false, "create the cluster's bucket that is copied to, where it does not exist")
	flags.BoolVar(&f.opaque, "opaque", false, "store archives in the cluster as plain bytes, without an index of their samples")
	flags.StringVar(&f.contentType, "content-type", "", "content type of what is stored")
	flags.BoolVar(&f.followLinks, "follow-links", false, "copy what links out of a local folder lead to")
	flags.StringVar(&f.source.Endpoint, "src-endpoint", "", "URL of the source's service, where it is not the vendor's")
	flags.StringVar(&f.source.Region, "src-region", "", "region of the source")
	flags.StringVar(&f.secrets[0], "src-secret", "", "file of credentials for the source, with lines FIELD=VALUE as secret set takes them")
	flags.StringVar(&f.target.Endpoint, "dst-endpoint", "", "URL of the destination's service, where it is not the vendor's")
	flags.StringVar(&f.target.Region, "dst-region", "", "region of the destination")
	flags.StringVar(&f.secrets[1], "dst-secret", "", "the same for the destination")
	flags.StringVar(&f.ca, "ca", "", "file of certificates (PEM) to trust besides the system's")
	flags.BoolVar(&f.insecure, "insecure", false, "do not check certificates")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "say only what failed")
	flags.BoolVar(&f.json, "json", false, "print a line of JSON for each file, and one of the totals, for scripts")
}

// check finds mistakes before anything is opened.
func (f *transferFlags) check(a *app) error {
	if f.jobs < 1 {
		return usagef("--jobs must be 1 or more, not %d", f.jobs)
	}
	if err := f.filter.Check(); err != nil {
		return &usageError{err.Error()}
	}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return err
		}
		f.source.CA, f.target.CA = pem, pem
	}
	for i, access := range []*transfer.Access{&f.source, &f.target} {
		if f.secrets[i] == "" {
			continue
		}
		access.Credentials = map[string]string{}
		if err := a.readFields(access.Credentials, f.secrets[i]); err != nil {
			return err
		}
	}
	f.source.Insecure, f.target.Insecure = f.insecure, f.insecure
	return nil
}

func (f *transferFlags) options(report *transferReport) transfer.Options {
	return transfer.Options{
		Jobs: f.jobs, Rate: int64(f.rate), Filter: f.filter, DryRun: f.dryRun,
		ContentType: f.contentType, Opaque: f.opaque, Observer: report,
	}
}

// opener makes sides of addresses. Whoever runs the command names them, on a machine of their own: connections are not
// guarded, as those of a cluster's nodes are, and credentials are those of the user's environment.
func (a *app) opener(f *transferFlags) *transfer.Opener {
	return &transfer.Opener{
		Cluster: a.clusterAt, Backends: openBackend, FollowLinks: f.followLinks, CreateBucket: f.createBucket && !f.dryRun,
	}
}

// clusterAt makes a client of the user's cluster, or of another one, which gets no token: it is not meant for it.
func (a *app) clusterAt(at string) (*api.Client, error) {
	if at == "" {
		return a.client()
	}
	if !strings.Contains(at, "://") {
		at = "http://" + at
	}
	client, err := api.NewClient(api.Options{Endpoint: at, NoToken: true})
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	return client, nil
}

func openBackend(ctx context.Context, c backend.Config) (backend.Backend, error) {
	c.EnvProxy = true
	opened, err := schemes.All().Open(ctx, c)
	if err != nil {
		return nil, err
	}
	return backend.WithRetries(opened, backend.Policy{Backend: c.Address.String()}), nil
}

// refused makes mistakes in what was asked for errors of usage.
func refused(err error) error {
	var refusal *transfer.Refusal
	if errors.As(err, &refusal) {
		return &usageError{refusal.Error()}
	}
	return err
}

// transferReport shows a copy: a bar on a terminal, a line for each file elsewhere.
type transferReport struct {
	app     *app
	flags   *transferFlags
	label   string
	started time.Time
	*progress

	mu      sync.Mutex
	planned int64
	failed  int
}

func (a *app) transferReport(label string, f *transferFlags) *transferReport {
	r := &transferReport{app: a, flags: f, label: label, started: time.Now()}
	r.progress = a.progress(label, -1, f.json || f.quiet || f.dryRun)
	return r
}

// Planned implements transfer.Observer.
func (r *transferReport) Planned(bytes int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.planned += bytes
	if r.bar != nil && r.bar.GetMax64() > 0 {
		r.bar.ChangeMax64(r.planned)
	}
}

// Listed implements transfer.Observer: from here on the bar knows its end.
func (r *transferReport) Listed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bar != nil {
		r.bar.ChangeMax64(max(r.planned, 1))
	}
}

// Moved implements transfer.Observer.
func (r *transferReport) Moved(bytes int64) {
	if r.bar != nil {
		_ = r.bar.Add64(bytes)
	}
}

// transferLine is a line of --json.
type transferLine struct {
	Action      string `json:"action"`
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
	Size        int64  `json:"size"`
	Reason      string `json:"reason,omitempty"`
	Error       string `json:"error,omitempty"`
	DryRun      bool   `json:"dry_run,omitempty"`
}

// Done implements transfer.Observer.
func (r *transferReport) Done(e transfer.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Action == transfer.Failed {
		if r.failed++; r.failed <= maxShown {
			r.warn("%s", r.reasonOf(e))
		} else if r.failed == maxShown+1 {
			r.warn("more files failed, which are counted but not shown")
		}
	}
	switch {
	case r.flags.json:
		line := transferLine{Action: e.Action, Source: e.Source, Destination: e.Destination, Size: e.Size, Reason: e.Reason, DryRun: r.flags.dryRun}
		if e.Err != nil {
			line.Error = e.Err.Error()
		}
		_ = r.app.printLine(line)
	case e.Action == transfer.Failed || r.flags.quiet:
	case r.flags.dryRun && e.Action != transfer.Skipped:
		r.app.printf("would %s %s\n", e.Action, describeEvent(e))
	case e.Action != transfer.Skipped:
		r.done("%s %s", e.Action, describeEvent(e))
	}
}

func (r *transferReport) reasonOf(e transfer.Event) string {
	text := e.Err.Error()
	if !strings.Contains(text, e.Source) && e.Source != "" {
		text = e.Source + ": " + text
	}
	return text
}

// warn writes a line to stderr, clear of the bar.
func (r *transferReport) warn(format string, args ...any) {
	if r.bar != nil {
		_ = r.bar.Clear()
	}
	fmt.Fprintf(r.app.err, "shardstream: "+format+"\n", args...)
}

func describeEvent(e transfer.Event) string {
	if e.Action == transfer.Deleted {
		return e.Destination
	}
	text := e.Source + " -> " + e.Destination
	if e.Size >= 0 {
		text += "\t" + size(e.Size)
	}
	if e.Reason != "" {
		text += "\t(" + e.Reason + ")"
	}
	return text
}

// end shows what came of it. err is why the work ended early.
func (r *transferReport) end(totals transfer.Totals, err error) error {
	took := time.Since(r.started)
	r.close()
	if r.flags.json {
		_ = r.app.printLine(map[string]any{"totals": map[string]any{
			"copied": totals.Copied, "skipped": totals.Skipped, "deleted": totals.Deleted, "failed": totals.Failed,
			"bytes": totals.Bytes, "seconds": took.Seconds(), "dry_run": r.flags.dryRun,
		}})
	} else if !r.flags.quiet {
		verb := ""
		if r.flags.dryRun {
			verb = "would have "
		}
		text := fmt.Sprintf("%scopied %s, %s", verb, filesText(totals.Copied), size(totals.Bytes))
		if totals.Skipped > 0 {
			text += fmt.Sprintf("; %d were there already", totals.Skipped)
		}
		if totals.Deleted > 0 {
			text += fmt.Sprintf("; %sdeleted %d", verb, totals.Deleted)
		}
		if !r.flags.dryRun {
			text += fmt.Sprintf("; in %.1f s (%s)", took.Seconds(), rate(totals.Bytes, took))
		}
		r.app.printf("%s\n", text)
	}
	switch {
	case err != nil:
		return refused(err)
	case totals.Failed > 0:
		return fmt.Errorf("%d of %s failed", totals.Failed, filesText(totals.Failed+totals.Copied+totals.Skipped+totals.Deleted))
	}
	return nil
}

func filesText(n int64) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}
