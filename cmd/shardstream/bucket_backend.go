package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

const backendHelp = `

With --backend a bucket is a cache in front of objects that are kept elsewhere: in
s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, hdfs://HOST:PORT/PATH,
behind http(s)://HOST/PATH, or in another cluster, ss://HOST:PORT/BUCKET. Objects are
fetched when they are read, and dropped for others when the disks or the quota are
full. Credentials are those of the nodes' environment, or a secret's.`

// none ends a property that has a list or a size.
const none = "none"

// backendFlags are the flags of a bucket's backend. "url" is there where the bucket is made.
type backendFlags struct {
	command          *cobra.Command
	url, ca          string
	to               api.Backend // what flags say; those that were not given don't count
	ttl              time.Duration
	quota, readAhead quotaValue
}

// backendNames are the flags, besides --backend.
var backendNames = []string{
	"secret", "endpoint-url", "region", "ca", "insecure", "check", "ttl", "write", "delete", "quota", "read-ahead", "pin",
}

func newBackendFlags(command *cobra.Command, create bool) *backendFlags {
	f := &backendFlags{command: command}
	flags := command.Flags()
	if create {
		flags.StringVar(&f.url, "backend", "", "URL of where the objects are kept: the bucket is a cache in front of it")
	}
	flags.StringVar(&f.to.Secret, "secret", "", "secret with the backend's credentials (the nodes' environment)")
	flags.StringVar(&f.to.Endpoint, "endpoint-url", "", "URL of the backend's service, where it is not the vendor's")
	flags.StringVar(&f.to.Region, "region", "", "region of the backend")
	flags.StringVar(&f.ca, "ca", "", "PEM file of certificates to trust besides the system's, or none")
	flags.BoolVar(&f.to.Insecure, "insecure", false, "don't check the backend's certificate")
	flags.StringVar(&f.to.Check, "check", api.CheckTTL, "when a cached object is compared with the backend's: never, ttl, always")
	flags.DurationVar(&f.ttl, "ttl", api.DefaultTTL, "with --check ttl: how long a comparison holds")
	flags.StringVar(&f.to.Write, "write", api.WriteReadOnly, "where new objects go: read-only (nowhere), write-through (to the backend first), cache-only")
	flags.StringVar(&f.to.Delete, "delete", api.DeleteRefused, "what a deletion removes: refuse, cache (the cached copy alone), through (the backend's too)")
	flags.Var(&f.quota, "quota", "what the cached objects may take, such as 100GiB, 0 for what the disks have room for (0)")
	flags.Var(&f.readAhead, "read-ahead", "what streams may fetch ahead of use, such as 4GiB, 0 for the default (0)")
	flags.StringArrayVar(&f.to.Pinned, "pin", nil, "name or pattern of objects that are not evicted, such as 'val-*.tar'; may be repeated; none for none any more")
	_ = command.MarkFlagFilename("ca", "pem", "crt")
	return f
}

// given says whether any flag of a backend was.
func (f *backendFlags) given() bool {
	return slices.ContainsFunc(backendNames, f.command.Flags().Changed)
}

// created is the backend of a new bucket; nil for none.
func (f *backendFlags) created() (*api.Backend, error) {
	if f.url == "" {
		if f.given() {
			return nil, usagef("--%s is for a bucket with a --backend", f.first())
		}
		return nil, nil
	}
	changed, err := f.changed()
	if err != nil {
		return nil, err
	}
	document, err := json.Marshal(changed)
	if err != nil {
		return nil, err
	}
	b := &api.Backend{URL: f.url}
	return b, json.Unmarshal(document, b)
}

func (f *backendFlags) first() string {
	return backendNames[slices.IndexFunc(backendNames, f.command.Flags().Changed)]
}

// changed are the properties that the flags that were given say, by their names in a backend's document; nil: its default.
func (f *backendFlags) changed() (map[string]any, error) {
	given := f.command.Flags().Changed
	properties := map[string]any{}
	for flag, is := range map[string]struct {
		name  string
		value any
	}{
		"secret":       {"secret", f.to.Secret},
		"endpoint-url": {"endpoint", f.to.Endpoint},
		"region":       {"region", f.to.Region},
		"insecure":     {"insecure", f.to.Insecure},
		"check":        {"check", f.to.Check},
		"ttl":          {"ttl_s", f.ttl.Seconds()},
		"write":        {"write", f.to.Write},
		"delete":       {"delete", f.to.Delete},
		"quota":        {"quota", max(int64(f.quota), 0)},
		"read-ahead":   {"read_ahead", max(int64(f.readAhead), 0)},
		"pin":          {"pinned", slices.DeleteFunc(slices.Clone(f.to.Pinned), func(p string) bool { return p == none || p == "" })},
	} {
		if given(flag) {
			properties[is.name] = is.value
		}
	}
	switch {
	case given("ttl") && f.ttl < time.Millisecond:
		return nil, usagef("--ttl must be a time such as 60s, not %v; --check always compares at each read", f.ttl)
	case given("check") && f.to.Check != api.CheckTTL && !given("ttl"):
		properties["ttl_s"] = nil
	}
	if !given("ca") {
		return properties, nil
	}
	if properties["ca"] = nil; f.ca == none || f.ca == "" {
		return properties, nil
	}
	pem, err := os.ReadFile(f.ca)
	properties["ca"] = string(pem)
	return properties, err
}

func newBucketShow(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "show BUCKET",
		Short:   "Show a bucket's properties, and how much of its backend is cached",
		Example: "  shardstream bucket show imagenet",
		Args:    cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, names []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		b, err := client.Bucket(c.Context(), bucketName(names[0]))
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(b)
		}
		a.printf("bucket\t%s\n", b.Name)
		a.printf("created\t%s\n", b.Created.Local().Format(time.DateTime))
		if b.Backend == nil {
			a.printf("kept as\t%s\n", redundancyOf(&b))
			return nil
		}
		a.showBackend(b.Backend)
		cached, err := client.Cached(c.Context(), b.Name)
		if err != nil {
			return err
		}
		a.printf("cached\t%s in %d objects, %s of it pinned; %d more known, %d fetched now, %d of the cluster's own\n",
			size(cached.Bytes), cached.Objects, size(cached.Pinned), cached.Known, cached.Fetches, cached.Own)
		return nil
	}
	return command
}

func (a *app) showBackend(b *api.Backend) {
	a.printf("backend\t%s\n", b.URL)
	for _, line := range [][2]string{{"endpoint", b.Endpoint}, {"region", b.Region}, {"secret", b.Secret}} {
		if line[1] != "" {
			a.printf("%s\t%s\n", line[0], line[1])
		}
	}
	check := b.Check
	if b.Check == api.CheckTTL {
		check += " " + time.Duration(b.TTLS*float64(time.Second)).String()
	}
	a.printf("check\t%s\nwrite\t%s\ndelete\t%s\n", check, b.Write, b.Delete)
	if b.Quota > 0 {
		a.printf("quota\t%s\n", size(b.Quota))
	}
	if b.ReadAhead > 0 {
		a.printf("read ahead\t%s\n", size(b.ReadAhead))
	}
	if len(b.Pinned) > 0 {
		a.printf("pinned\t%s\n", strings.Join(b.Pinned, " "))
	}
	if b.Insecure {
		a.printf("insecure\tits certificate is not checked\n")
	}
}

// keptText says for a list of buckets how one keeps its objects, and how much of it is cached.
func keptText(c *cobra.Command, client *api.Client, b *api.Bucket) (kept, cached string) {
	if b.Backend == nil {
		return redundancyOf(b), "-"
	}
	kept = fmt.Sprintf("%s of %s", b.Backend.Write, b.Backend.URL)
	status, err := client.Cached(c.Context(), b.Name)
	if err != nil { // a target is away: the list is whole without
		return kept, "?"
	}
	return kept, size(status.Bytes)
}
