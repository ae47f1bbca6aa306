package main

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/spf13/cobra"

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

// jsonObject is a flag's text as a JSON object, nil where it is empty.
func jsonObject(flag, text string) (json.RawMessage, error) {
	if text == "" {
		return nil, nil
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &object); err != nil || object == nil {
		return nil, usagef("%s must be a JSON object such as {\"size\": 224}, not %s", flag, text)
	}
	return json.RawMessage(text), nil
}

// named refuses what can't be a segment of a URL's path, where it would ask for another resource.
func named(count cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := count(c, args); err != nil {
			return err
		}
		for _, name := range args {
			if name == "" || name == "." || name == ".." {
				return usagef("%q is not a name", name)
			}
		}
		return nil
	}
}
