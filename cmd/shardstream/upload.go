package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// upload is one file on its way to one object.
type upload struct {
	path        string // "-" is stdin
	bucket, key string
	size        int64 // -1 where that is not known
}

// planUploads finds the files of all sources and gives each its key. Nothing is sent before the
// whole plan stands: a mistyped name must not show after an hour of sending.
func planUploads(sources []string, destination string) ([]upload, error) {
	bucket, prefix, err := api.ParseAddress(destination)
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	var uploads []upload
	for _, source := range sources {
		found, err := planSource(source, bucket, prefix)
		if err != nil {
			return nil, err
		}
		uploads = append(uploads, found...)
	}
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		if len(uploads) != 1 {
			return nil, usagef("%d files can't all be %s: end the destination with / to put them below it", len(uploads), destination)
		}
		uploads[0].key = prefix
	}
	from := make(map[string]string, len(uploads))
	for _, u := range uploads {
		if u.key == "" {
			return nil, usagef("stdin has no name: write its key, as in %s", api.Address(bucket, prefix+"name"))
		}
		if other, twice := from[u.key]; twice {
			return nil, usagef("%s and %s would both be %s", other, u.path, api.Address(bucket, u.key))
		}
		from[u.key] = u.path
	}
	return uploads, nil
}

func planSource(source, bucket, prefix string) ([]upload, error) {
	if source == "-" {
		return []upload{{path: "-", bucket: bucket, size: -1}}, nil
	}
	paths := []string{source}
	if _, err := os.Stat(source); err != nil && strings.ContainsAny(source, "*?[") {
		if paths, err = filepath.Glob(source); err != nil {
			return nil, usagef("pattern %q: %v", source, err)
		}
		if len(paths) == 0 {
			return nil, fmt.Errorf("%s matches no file", source)
		}
	}
	var uploads []upload
	for _, path := range paths {
		stat, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !stat.IsDir() {
			uploads = append(uploads, upload{path: path, bucket: bucket, key: prefix + filepath.Base(path), size: sizeOf(stat)})
			continue
		}
		below, err := planDirectory(path, bucket, prefix)
		if err != nil {
			return nil, err
		}
		uploads = append(uploads, below...)
	}
	return uploads, nil
}

// planDirectory takes the files below a directory, and links to files, but follows no link to a
// directory: it may lead out, or round in a circle.
func planDirectory(root, bucket, prefix string) ([]upload, error) {
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		return nil, usagef("%s is a directory: end the destination with /", root)
	}
	var uploads []upload
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		stat, err := os.Stat(path)
		if err != nil {
			return err
		}
		if !stat.Mode().IsRegular() {
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		uploads = append(uploads, upload{path: path, bucket: bucket, key: prefix + filepath.ToSlash(name), size: stat.Size()})
		return nil
	})
	if err == nil && len(uploads) == 0 {
		err = fmt.Errorf("%s holds no files", root)
	}
	return uploads, err
}

func sizeOf(stat fs.FileInfo) int64 {
	if stat.Mode().IsRegular() {
		return stat.Size()
	}
	return -1 // a pipe or a device
}
