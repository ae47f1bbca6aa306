// An ETL container in Go: it compresses objects as they come.
package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/shardstream/shardstream/etl/serve"
)

func main() {
	if err := serve.Run(transform); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func transform(_ context.Context, r io.Reader, w io.Writer, args serve.Args) error {
	options := struct{ Level int }{gzip.DefaultCompression}
	if err := args.Into(&options); err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(w, options.Level)
	if err != nil {
		return err
	}
	if _, err := io.Copy(z, r); err != nil {
		return err
	}
	return z.Close()
}
