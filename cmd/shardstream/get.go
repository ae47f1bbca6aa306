package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl"
)

// readFlags select what of an object is read, for get and cat.
type readFlags struct {
	member string
	etl    []string
	args   string
	cache  bool
	bytes  string
}

func (f *readFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&f.member, "member", "", "read this file inside the archive")
	flags.StringSliceVar(&f.etl, "etl", nil, "apply transformations, in order")
	flags.StringVar(&f.args, "etl-args", "", `arguments of the transformation as JSON, such as {"size": 224}; of several an array, with null for none`)
	flags.BoolVar(&f.cache, "cache", false, "have the target keep what the transformations make, or give what it kept")
	flags.StringVar(&f.bytes, "range", "", "read only bytes FIRST-LAST, both counted, or FIRST-")
}

func (f *readFlags) options() (api.GetOptions, error) {
	o := api.GetOptions{Member: f.member, ETL: f.etl, ETLArgs: json.RawMessage(f.args), Cache: f.cache}
	if len(f.etl) == 0 && (f.args != "" || f.cache) {
		return o, usagef("--etl-args and --cache go with --etl only")
	}
	if _, err := etl.ParseChain(strings.Join(f.etl, ","), o.ETLArgs); err != nil {
		return o, usagef("--etl and --etl-args: %v", err)
	}
	if f.bytes == "" {
		return o, nil
	}
	if f.member != "" && len(f.etl) == 0 {
		return o, usagef("--range goes with --member only where --etl transforms it")
	}
	from, to, ok := strings.Cut(f.bytes, "-")
	first, err := strconv.ParseInt(from, 10, 64)
	if !ok || err != nil || first < 0 {
		return o, usagef("--range %q is not FIRST-LAST or FIRST-, such as 0-1023", f.bytes)
	}
	o.Offset = first
	if to == "" {
		return o, nil
	}
	last, err := strconv.ParseInt(to, 10, 64)
	if err != nil || last < first {
		return o, usagef("--range %q is not FIRST-LAST or FIRST-, such as 0-1023", f.bytes)
	}
	o.Length = last - first + 1
	return o, nil
}

func newCat(a *app) *cobra.Command {
	f := &readFlags{}
	command := &cobra.Command{
		Use:   "cat ss://BUCKET/KEY...",
		Short: "Write objects, ranges or members to stdout",
		Example: `  shardstream cat ss://digits/labels.json
  shardstream cat ss://digits/train-0000.tar --member 000001.json
  shardstream cat ss://digits/train-0000.tar --range 0-511
  shardstream cat ss://photos/cat.jpg --etl crop,gray --etl-args '[{"size": 64}, null]' --cache >cat.png`,
		Args: cobra.MinimumNArgs(1),
	}
	f.add(command)
	command.RunE = func(c *cobra.Command, addresses []string) error {
		options, err := f.options()
		if err != nil {
			return err
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		for _, address := range addresses {
			bucket, key, err := objectAddress(address)
			if err != nil {
				return err
			}
			if err := copyObject(c.Context(), client, bucket, key, options, a.out); err != nil {
				return err
			}
		}
		return nil
	}
	return command
}

func copyObject(ctx context.Context, client *api.Client, bucket, key string, o api.GetOptions, w io.Writer) error {
	reader, err := client.GetObject(ctx, bucket, key, o)
	if err != nil {
		return err
	}
	defer reader.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, reader, make([]byte, 1<<20))
	return err
}

func newGet(a *app) *cobra.Command {
	f, parallel := &readFlags{}, 4
	command := &cobra.Command{
		Use:   "get ss://BUCKET/KEY [FILE | DIRECTORY | -]",
		Short: "Fetch objects into files, or to stdout",
		Long: `get fetches an object into a file, the current directory by default, or to
stdout for "-". All objects below a prefix (ss://bucket/prefix/), or those that
match a pattern, are fetched into a directory, under their names below the
prefix. A file appears under its name only when it is complete and verified.`,
		Example: `  shardstream get ss://digits/train-0000.tar
  shardstream get ss://digits/train-0000.tar - | tar t
  shardstream get 'ss://digits/train-*.tar' shards/`,
		Args: cobra.RangeArgs(1, 2),
	}
	f.add(command)
	command.Flags().IntVarP(&parallel, "parallel", "p", parallel, "objects to fetch at once")
	command.RunE = func(c *cobra.Command, args []string) error {
		options, err := f.options()
		if err != nil {
			return err
		}
		if parallel < 1 {
			return usagef("--parallel must be 1 or more, not %d", parallel)
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		destination := "."
		if len(args) == 2 {
			destination = args[1]
		}
		if strings.HasPrefix(destination, "ss://") {
			return usagef("get writes to this machine; %q is an address in the cluster (pipe `get ADDRESS -` into `put -`)", destination)
		}
		if destination == "-" {
			bucket, key, err := objectAddress(args[0])
			if err != nil {
				return err
			}
			return copyObject(c.Context(), client, bucket, key, options, a.out)
		}
		downloads, err := planDownloads(c.Context(), client, args[0], destination, f.member)
		if err != nil {
			return err
		}
		return a.get(c.Context(), client, downloads, options, parallel)
	}
	return command
}

// download is one object on its way to one file.
type download struct {
	bucket, key, path string
	size              int64
}

func planDownloads(ctx context.Context, client *api.Client, address, destination, member string) ([]download, error) {
	bucket, key, err := api.ParseAddress(address)
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	objects, err := find(ctx, client, address)
	if err != nil {
		return nil, err
	}
	if key != "" && !strings.HasSuffix(key, "/") && !isPattern(key) {
		name := path.Base(key)
		if member != "" {
			name = path.Base(member)
		}
		return []download{{bucket: bucket, key: key, path: fileFor(destination, name), size: objects[0].Size}}, nil
	}
	if member != "" {
		return nil, usagef("--member goes with one object, not with %s", address)
	}
	// What lies before the first wildcard, up to its last slash, is not repeated in the directory.
	base := key
	if i := strings.IndexAny(base, "*?[{"); i >= 0 {
		base = base[:i]
	}
	base = base[:strings.LastIndexByte(base, '/')+1]
	downloads := make([]download, len(objects))
	for i, object := range objects {
		name := strings.TrimPrefix(object.Name, base)
		if !filepath.IsLocal(filepath.FromSlash(name)) || strings.HasSuffix(name, "/") {
			return nil, fmt.Errorf("%s can't be a file below %s: fetch it by itself, to a name of your choice",
				api.Address(object.Bucket, object.Name), destination)
		}
		downloads[i] = download{bucket: object.Bucket, key: object.Name, path: filepath.Join(destination, filepath.FromSlash(name)), size: object.Size}
	}
	return downloads, nil
}

// fileFor is the file for a single object: below an existing directory or one that is meant by a
// trailing slash, else the destination itself.
func fileFor(destination, name string) string {
	stat, err := os.Stat(destination)
	if err == nil && stat.IsDir() || strings.HasSuffix(destination, "/") {
		return filepath.Join(destination, name)
	}
	return destination
}

func (a *app) get(ctx context.Context, client *api.Client, downloads []download, o api.GetOptions, parallel int) error {
	total := int64(0)
	for _, d := range downloads {
		total += d.size
	}
	if o.Member != "" || len(o.ETL) > 0 || o.Offset+o.Length > 0 {
		total = -1
	}
	p := a.progress("get", total, false)
	started := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, d := range downloads {
		group.Go(func() error {
			n, err := fetch(ctx, client, d, o, p)
			if err == nil {
				p.done("%s\t%s", d.path, size(n))
			}
			return err
		})
	}
	err := group.Wait()
	p.close()
	if err == nil && p.bar != nil {
		a.printf("fetched %d objects in %.1f s\n", len(downloads), time.Since(started).Seconds())
	}
	return err
}

// fetch writes an object beside its file and renames it once it is whole.
func fetch(ctx context.Context, client *api.Client, d download, o api.GetOptions, p *progress) (n int64, err error) {
	reader, err := client.GetObject(ctx, d.bucket, d.key, o)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	if stat, statErr := os.Stat(d.path); statErr == nil && !stat.Mode().IsRegular() && !stat.IsDir() {
		return writeInto(d.path, reader, p) // /dev/null, a named pipe: nothing to rename onto
	}
	if err := os.MkdirAll(filepath.Dir(d.path), 0o777); err != nil { //nolint:gosec // the user's umask decides
		return 0, err
	}
	tmp, err := createBeside(d.path)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(tmp.Name())))
		}
	}()
	n, err = io.CopyBuffer(io.MultiWriter(tmp, p), reader, make([]byte, 1<<20))
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), d.path)
	}
	return n, err
}

func writeInto(path string, reader io.Reader, p *progress) (int64, error) {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	n, err := io.CopyBuffer(io.MultiWriter(file, p), reader, make([]byte, 1<<20))
	return n, errors.Join(err, file.Close())
}

// createBeside makes a new file in the directory of path, with the permissions that the user's umask
// gives (os.CreateTemp would give it to nobody else).
func createBeside(path string) (*os.File, error) {
	for i := 0; ; i++ {
		name := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.part-%d-%d", shorten(filepath.Base(path)), os.Getpid(), i))
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666) //nolint:gosec // see above
		if !errors.Is(err, os.ErrExist) || i > 100 {
			return file, err
		}
	}
}

// shorten leaves room for what createBeside adds to a name.
func shorten(name string) string { return name[:min(len(name), 200)] }

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
