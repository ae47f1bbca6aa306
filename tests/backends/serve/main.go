// Serve runs one of the servers that tests of backends need, with the files of a folder in its bucket "datasets":
//
//	serve SCHEME FOLDER
//
// It prints what a user would have in the environment, as JSON, and ends with its standard input. Exit code 3: the
// server is not installed.
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

	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/tests/backends/servers"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: serve SCHEME FOLDER")
		os.Exit(2)
	}
	if err := serve(context.Background(), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, servers.ErrMissing) {
			os.Exit(3)
		}
		os.Exit(1)
	}
}

func serve(ctx context.Context, kind, folder string) (err error) {
	dir, err := os.MkdirTemp("", "shardstream-serve-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := servers.Start(ctx, kind, dir, servers.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	if err := fill(ctx, s, folder); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(environment(s)); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// fill puts the files of a folder below digits/ of the bucket.
func fill(ctx context.Context, s *servers.Server, folder string) error {
	origin, err := s.Origin("datasets")
	if err != nil {
		return err
	}
	if err := origin.Make(ctx); err != nil {
		return err
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(folder, file.Name())) //nolint:gosec // the folder is the caller's choice
		if err != nil {
			return err
		}
		if err := origin.Put(ctx, path.Join("digits", file.Name()), data); err != nil {
			return err
		}
	}
	return nil
}

// environment is what the guides' commands refer to.
func environment(s *servers.Server) map[string]string {
	switch s.Kind {
	case backend.S3:
		return map[string]string{
			"S3_ENDPOINT": s.EndpointAt(s.Addr), "AWS_ACCESS_KEY_ID": servers.S3AccessKey,
			"AWS_SECRET_ACCESS_KEY": servers.S3SecretKey, "AWS_REGION": servers.S3Region,
		}
	case backend.GCS:
		return map[string]string{"GCS_ENDPOINT": s.EndpointAt(s.Addr)}
	case backend.Azure:
		return map[string]string{
			"AZURE_ENDPOINT": s.EndpointAt(s.Addr), "AZURE_STORAGE_ACCOUNT": servers.AzureAccount,
			"AZURE_STORAGE_KEY": servers.AzureKey,
		}
	case backend.HDFS:
		return map[string]string{"NAMENODE": s.Addr}
	}
	return map[string]string{"SERVER": s.Addr}
}
