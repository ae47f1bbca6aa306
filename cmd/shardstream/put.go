package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
)

// putFlags are the flags of `put`.
type putFlags struct {
	parallel     int
	createBucket bool
	opaque       bool
	noClobber    bool
	contentType  string
	json         bool
}

func newPut(a *app) *cobra.Command {
	f := &putFlags{}
	command := &cobra.Command{
		Use:   "put SOURCE... ss://BUCKET/[PREFIX/ | KEY]",
		Short: "Store files, directories or stdin as objects",
		Long: `put stores files, directories and patterns, or stdin as "-". A destination that
ends in / takes each file under its own name, files of a directory under their
path below it; any other destination is the key of the one source.

The bucket must exist, unless --create-bucket makes it. An object is on disk when
put reports it; a tar is indexed on its way, and refused where it is damaged.
All sources are tried; the exit code is 1 where any failed.`,
		Example: `  shardstream put train-*.tar ss://digits/
  shardstream put shards/ ss://digits/v2/ --parallel 8
  shardstream put model.bin ss://models/best.bin --create-bucket
  tar c images | shardstream put - ss://digits/images.tar`,
		Args: cobra.MinimumNArgs(2),
	}
	flags := command.Flags()
	flags.IntVarP(&f.parallel, "parallel", "p", 4, "objects to send at once")
	flags.BoolVar(&f.createBucket, "create-bucket", false, "create the bucket where it does not exist")
	flags.BoolVar(&f.opaque, "opaque", false, "store archives as plain bytes, without an index of their samples")
	flags.BoolVar(&f.noClobber, "no-clobber", false, "fail where the object exists already")
	flags.StringVar(&f.contentType, "content-type", "", "content type of the objects")
	flags.BoolVar(&f.json, "json", false, "print the stored objects as JSON")
	command.RunE = func(c *cobra.Command, args []string) error {
		if f.parallel < 1 {
			return usagef("--parallel must be 1 or more, not %d", f.parallel)
		}
		uploads, err := planUploads(args[:len(args)-1], args[len(args)-1])
		if err != nil {
			return err
		}
		return a.put(c.Context(), uploads, f)
	}
	return command
}

func (a *app) put(ctx context.Context, uploads []upload, f *putFlags) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	if err := a.ensureBucket(ctx, client, uploads[0].bucket, f); err != nil {
		return err
	}
	total := int64(0)
	for _, u := range uploads {
		if total += u.size; u.size < 0 {
			total = -1
			break
		}
	}
	p := a.progress("put", total, f.json)
	started := time.Now()
	var mu sync.Mutex
	var stored []api.Object
	var failed atomic.Int64
	group := errgroup.Group{}
	group.SetLimit(f.parallel)
	for _, u := range uploads {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			object, err := a.putOne(ctx, client, u, f, p)
			if err != nil {
				failed.Add(1)
				if len(uploads) == 1 || errors.Is(err, context.Canceled) {
					return err
				}
				fmt.Fprintf(a.err, "shardstream: %s: %v\n", u.path, err)
				return nil
			}
			mu.Lock()
			stored = append(stored, object)
			mu.Unlock()
			p.done("%s\t%s%s", api.Address(object.Bucket, object.Name), size(object.Size), samplesText(object.Samples))
			return nil
		})
	}
	err = group.Wait()
	p.close()
	if err == nil {
		err = ctx.Err()
	}
	if reportErr := a.reportPut(stored, time.Since(started), f, p); err == nil {
		err = reportErr
	}
	if n := failed.Load(); err == nil && n > 0 {
		err = fmt.Errorf("%d of %d objects were not stored", n, len(uploads))
	}
	return err
}

func (a *app) reportPut(stored []api.Object, took time.Duration, f *putFlags, p *progress) error {
	if f.json {
		return a.printJSON(api.ObjectList{Objects: orEmpty(stored)})
	}
	var bytes, samples int64
	for _, object := range stored {
		bytes += object.Size
		samples += object.Samples
	}
	if len(stored) > 1 || p.bar != nil {
		a.printf("stored %d objects, %s%s in %.1f s (%s)\n", len(stored), size(bytes), samplesText(samples), took.Seconds(), rate(bytes, took))
	}
	return nil
}

func samplesText(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d samples", n)
}

// ensureBucket finds out before anything is sent whether there is a bucket to send to.
func (a *app) ensureBucket(ctx context.Context, client *api.Client, bucket string, f *putFlags) error {
	_, err := client.Bucket(ctx, bucket)
	if !hasCode(err, api.CodeNoBucket) {
		return err
	}
	if !f.createBucket {
		return fmt.Errorf("%w; create it with `shardstream bucket create %s`, or add --create-bucket", err, bucket)
	}
	if _, err := client.CreateBucket(ctx, bucket); err != nil && !hasCode(err, api.CodeExists) {
		return err
	}
	return nil
}

func (a *app) putOne(ctx context.Context, client *api.Client, u upload, f *putFlags, p *progress) (api.Object, error) {
	options := api.PutOptions{ContentType: f.contentType, Opaque: f.opaque}
	if f.noClobber {
		options.IfNoneMatch = "*"
	}
	pipe := a.in
	if u.path != "-" {
		info, err := os.Stat(u.path)
		if err != nil {
			return api.Object{}, err
		}
		if pipe = nil; !info.Mode().IsRegular() { // such as <(tar c images)
			pipe = &namedPipe{path: u.path}
		}
	}
	if pipe != nil {
		// Only a Reader is shown: what was read from a pipe can't be sent again.
		body := cancellable(ctx, pipe)
		defer body.Close()
		return client.PutObject(ctx, u.bucket, u.key, io.TeeReader(body, p), -1, options)
	}
	file, err := os.Open(u.path)
	if err != nil {
		return api.Object{}, err
	}
	defer file.Close()
	return client.PutObject(ctx, u.bucket, u.key, &progressFile{file: file, progress: p}, u.size, options)
}

// namedPipe is opened by the first read, as that waits for a writer.
type namedPipe struct {
	path string
	file *os.File // until its end
}

func (n *namedPipe) Read(p []byte) (int, error) {
	if n.file == nil {
		file, err := os.Open(n.path)
		if err != nil {
			return 0, err
		}
		n.file = file
	}
	count, err := n.file.Read(p)
	if err != nil {
		_ = n.file.Close()
	}
	return count, err
}

// cancellable is a reader that ends with the context, also while a read of r (a pipe that nobody
// writes to) does not return. The goroutine that hangs there then ends with the process.
func cancellable(ctx context.Context, r io.Reader) io.ReadCloser {
	reader, writer := io.Pipe()
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{writer}, struct{ io.Reader }{r}, make([]byte, 1<<20))
		_ = writer.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { _ = writer.CloseWithError(context.Canceled) })
	return reader
}

// progressFile is a file whose reading moves a bar, back again where the file is sent anew.
type progressFile struct {
	file     *os.File // not embedded: its WriteTo would pass Read by
	progress *progress
	at       int64
}

func (f *progressFile) Read(b []byte) (int, error) {
	n, err := f.file.Read(b)
	f.at += int64(n)
	_, _ = f.progress.Write(b[:n])
	return n, err
}

func (f *progressFile) Seek(offset int64, whence int) (int64, error) {
	at, err := f.file.Seek(offset, whence)
	if err == nil && at < f.at {
		f.progress.back(f.at - at)
	}
	f.at = at
	return at, err
}
