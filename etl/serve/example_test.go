package serve_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/serve"
)

// A container that compresses objects, as they come.
func ExampleRun() {
	err := serve.Run(func(_ context.Context, r io.Reader, w io.Writer, args serve.Args) error {
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
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A container that adds a field to samples.
func ExampleSamples() {
	err := serve.Samples(func(_ context.Context, s *etl.Sample, _ serve.Args) error {
		if text, ok := s.Field("txt"); ok {
			s.Fields = append(s.Fields, etl.Field{Name: "upper", Value: etl.BytesValue(bytes.ToUpper(text.Data))})
		}
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
