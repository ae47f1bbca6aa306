package api

import "strings"

// FormatVia writes the buckets that a request came through, for HeaderVia.
func FormatVia(buckets []string) string { return strings.Join(buckets, ", ") }

// ParseVia reads HeaderVia.
func ParseVia(header string) []string {
	var buckets []string
	for bucket := range strings.SplitSeq(header, ",") {
		if bucket = strings.TrimSpace(bucket); bucket != "" {
			buckets = append(buckets, bucket)
		}
	}
	return buckets
}
