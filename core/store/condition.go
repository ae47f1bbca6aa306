package store

import (
	"fmt"
	"strings"

	"github.com/zeebo/xxh3"
)

// Condition restricts a Put or Delete, as If-Match and If-None-Match do in HTTP: an ETag, a
// comma-separated list of them, or "*". It is evaluated in one step with the commit.
type Condition struct{ IfMatch, IfNoneMatch string }

// ETag is the object's entity tag, quoted as in HTTP. It differs between any two versions. Of an object that has an
// origin it is the same before and after its bytes are known.
func (i Info) ETag() string {
	content := i.XXH3
	if tag, ok := i.Origin(); ok {
		content = xxh3.HashString(tag)
	}
	return fmt.Sprintf("\"%016x-%016x\"", i.Version, content)
}

// holds says whether the condition allows a change of the present object; nil: there is none.
func (c Condition) holds(present *record) bool {
	if c.IfMatch != "" && (present == nil || !matches(c.IfMatch, present.info.ETag())) {
		return false
	}
	return c.IfNoneMatch == "" || present == nil || !matches(c.IfNoneMatch, present.info.ETag())
}

// matches says whether a list of entity tags has this one.
func matches(list, tag string) bool {
	for one := range strings.SplitSeq(list, ",") {
		one = strings.TrimSpace(one)
		if one == "*" || strings.TrimPrefix(one, "W/") == tag {
			return true
		}
	}
	return false
}
