package store

import (
	"fmt"
	"strings"
)

// ETag is the object's entity tag, quoted as in HTTP. It differs between any two versions.
func (i Info) ETag() string { return fmt.Sprintf("\"%016x-%016x\"", i.Version, i.XXH3) }

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
