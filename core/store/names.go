package store

import (
	"strings"
	"unicode/utf8"
)

// Bounds of names, in bytes.
const (
	maxBucketName = 63
	maxObjectName = 1024
)

// CheckBucket says by a *NameError why a bucket can't have this name: 1 to 63 of a-z, 0-9, '.', '_' and '-',
// beginning and ending with a letter or digit, no two dots in a row.
func CheckBucket(name string) error {
	rule := ""
	switch {
	case name == "":
		rule = "it is empty"
	case len(name) > maxBucketName:
		rule = "it is longer than 63 bytes"
	case strings.Contains(name, ".."):
		rule = "it has two dots in a row"
	case !alphanumeric(name[0]) || !alphanumeric(name[len(name)-1]):
		rule = "it must begin and end with a-z or 0-9"
	default:
		for i := range len(name) {
			if c := name[i]; !alphanumeric(c) && c != '.' && c != '_' && c != '-' {
				rule = "only a-z, 0-9, '.', '_' and '-' are allowed"
			}
		}
	}
	if rule == "" {
		return nil
	}
	return &NameError{Kind: "bucket", Name: name, Rule: rule}
}

func alphanumeric(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// CheckName says by a *NameError why an object can't have this name. Names look like relative paths, so
// that `get` can write them as files: no empty, "." or ".." segment, no control characters, valid UTF-8,
// at most 1024 bytes.
func CheckName(name string) error {
	rule := ""
	switch {
	case name == "":
		rule = "it is empty"
	case len(name) > maxObjectName:
		rule = "it is longer than 1024 bytes"
	case !utf8.ValidString(name):
		rule = "it is not valid UTF-8"
	case name[0] == '/':
		rule = "it begins with '/'"
	default:
		rule = checkSegments(name)
	}
	if rule == "" {
		return nil
	}
	return &NameError{Kind: "object", Name: name, Rule: rule}
}

func checkSegments(name string) (rule string) {
	for _, r := range name {
		if r < 0x20 || 0x7f <= r && r < 0xa0 {
			return "it has a control character"
		}
	}
	for seg := range strings.SplitSeq(name, "/") {
		switch seg {
		case "":
			return "it has an empty segment ('//' or a '/' at the end)"
		case ".", "..":
			return "it has a segment '.' or '..'"
		}
	}
	return ""
}

func checkNames(bucket, name string) error {
	if err := CheckBucket(bucket); err != nil {
		return err
	}
	return CheckName(name)
}
