package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// CleanStrays removes files that no object claims, and that are older than grace: what unfinished writes have left,
// and old versions that could not be unlinked. Names that the store does not give, and files of a disk of which not all
// metadata can be read, stay. A dry run removes nothing, and finds the same.
func (s *Store) CleanStrays(ctx context.Context, grace time.Duration, dryRun bool) ([]Finding, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	var out []Finding
	var errs []error
	for _, k := range s.all() {
		if k.isOut() || k.cond.Load().state == DiskReadOnly {
			continue
		}
		found, err := s.cleanDisk(ctx, k, grace, dryRun)
		out = append(out, found...)
		if err != nil && !k.isOut() {
			errs = append(errs, fmt.Errorf("disk %s: %w", k.ID, err))
		}
	}
	return out, errors.Join(errs...)
}

func (s *Store) cleanDisk(ctx context.Context, k *disk, grace time.Duration, dryRun bool) ([]Finding, error) {
	claimed, err := k.claimed(ctx)
	if err != nil {
		return nil, err
	}
	suspects := map[fileID]string{}
	err = k.eachFile(func(path string, id fileID, ok bool) error {
		if _, used := claimed[id]; ok && !k.isBusy(id) && (!used || isTmp(path)) && k.olderThan(grace, path) {
			suspects[id] = path
		}
		return cancelled(ctx, "look for stray files")
	})
	if err != nil || len(suspects) == 0 {
		return nil, err
	}
	// A write may have finished between the look at the metadata and that at the file. One that is not under way by now
	// has its record, or never will.
	if claimed, err = k.claimed(ctx); err != nil {
		return nil, err
	}
	var out []Finding
	for id, path := range suspects {
		if _, used := claimed[id]; used && !isTmp(path) {
			continue
		}
		f := Finding{Disk: k.ID, File: filepath.Join(k.Path, filepath.FromSlash(path)), Block: -1, Detail: "no object claims it"}
		if !dryRun {
			err := s.o.Audit(k.ID, f.File)
			if err == nil {
				err = k.fs.Remove(path)
			}
			if err != nil {
				return out, err
			}
		}
		out = append(out, f)
	}
	return out, nil
}

// claimed are the files that records name. It is an error where not all records can be read.
func (k *disk) claimed(ctx context.Context) (map[fileID]struct{}, error) {
	files := map[fileID]struct{}{}
	err := k.eachRecord(func(_ []byte, r *record, err error) error {
		if err != nil {
			return err
		}
		files[r.file] = struct{}{}
		return cancelled(ctx, "look for stray files")
	})
	return files, err
}

// olderThan says whether a file was last changed longer ago.
func (k *disk) olderThan(grace time.Duration, path string) bool {
	f, err := k.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // nothing was done with it
	info, err := f.OS().Stat()
	return err == nil && k.now().Sub(info.ModTime()) > grace
}

func isTmp(path string) bool { return strings.HasPrefix(path, tmpDir+"/") }
