package main

import (
	"errors"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// bucketName takes "digits", "ss://digits" and "ss://digits/" for the bucket digits; anything else
// is left for the cluster to refuse.
func bucketName(name string) string {
	if rest, ok := strings.CutPrefix(name, api.Scheme); ok {
		return strings.TrimSuffix(rest, "/")
	}
	return name
}

// objectAddress is an address that names one object.
func objectAddress(address string) (bucket, key string, err error) {
	bucket, key, err = api.ParseAddress(address)
	if err != nil {
		return "", "", &usageError{err.Error()}
	}
	if key == "" || strings.HasSuffix(key, "/") {
		return "", "", usagef("address %q names no object: write ss://bucket/key", address)
	}
	return bucket, key, nil
}

// hasCode tells whether a node reported an error of this code.
func hasCode(err error, code string) bool {
	var reported *api.Error
	return errors.As(err, &reported) && reported.Code == code
}

// orEmpty makes JSON print [] for a list of nothing.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
