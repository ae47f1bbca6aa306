package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Bounds of a manifest.
const (
	MaxManifest        = 64 << 20 // bytes
	maxManifestEntries = 1 << 20
)

// Prefixes of a source that is no pattern.
const (
	// ManifestPrefix stands before the address of an object that lists objects.
	ManifestPrefix = "@"
	// ExactPrefix stands before an address in which *, ?, [ and { are part of the name.
	ExactPrefix = "="
)

// ParseManifest reads a list of objects: on each line an address, ss://bucket/key, exactly as the object is
// named, or a JSON object with it as "url". Empty lines and those that begin with # count for nothing. Errors
// name the line.
func ParseManifest(data []byte) ([]string, error) {
	if len(data) > MaxManifest {
		return nil, fmt.Errorf("it has %d bytes, at most %d are possible", len(data), int64(MaxManifest))
	}
	var addresses []string
	number := 0
	for line := range bytes.Lines(data) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		address := string(line)
		if line[0] == '{' {
			var entry struct {
				URL string `json:"url"`
			}
			if err := json.Unmarshal(line, &entry); err != nil {
				return nil, fmt.Errorf("line %d is not JSON: %w", number, err)
			}
			if address = entry.URL; address == "" {
				return nil, fmt.Errorf("line %d has no \"url\"", number)
			}
		}
		if _, key, err := ParseAddress(address); err != nil || key == "" || strings.HasSuffix(key, "/") {
			return nil, fmt.Errorf("line %d, %.200q, is not the address of an object such as ss://bucket/train-0000.tar", number, address)
		}
		if addresses = append(addresses, address); len(addresses) > maxManifestEntries {
			return nil, fmt.Errorf("it lists more than %d objects", maxManifestEntries)
		}
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("it lists no objects")
	}
	return addresses, nil
}

// CheckSamples refuses what a stream's sources can't be.
func CheckSamples(samples string) error {
	if samples != "" && samples != SamplesShards && samples != SamplesObjects {
		return Errorf(400, CodeBadRequest, "samples must be %s or %s, not %.80q", SamplesShards, SamplesObjects, samples)
	}
	return nil
}
