package api

import "strings"

// FormatVia writes the buckets that a request came through, for HeaderVia.
func FormatVia(buckets []string) string { return strings.Join(buckets, ", ") }

// mostVia is how much is read of a HeaderVia: more than a request has that ends somewhere.
const mostVia = 4 << 10

// ParseVia reads HeaderVia.
func ParseVia(header string) []string {
	var buckets []string
	header = header[:min(len(header), mostVia)]
	for bucket := range strings.SplitSeq(header, ",") {
		if bucket = strings.TrimSpace(bucket); bucket != "" {
			buckets = append(buckets, bucket)
		}
	}
	return buckets
}
