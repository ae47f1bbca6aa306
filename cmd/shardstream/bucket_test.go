package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestBucketsSayHowTheyKeepObjects(t *testing.T) {
	run := onCluster(t)
	ok(t, run("bucket", "create", "kept-twice", "--mirror", "2"))
	assert.Contains(t, ok(t, run("bucket", "ls")), "mirror 2")
	assert.Contains(t, ok(t, run("bucket", "set", "kept-twice", "--degraded")), "mirror 2, degraded writes")
	assert.Contains(t, ok(t, run("bucket", "set", "kept-twice", "--degraded=false")), "mirror 2\n")
	for name, args := range map[string][]string{
		"nothing to change": {"bucket", "set", "kept-twice"},
		"no such form":      {"bucket", "set", "kept-twice", "--ec", "4"},
		"no parity":         {"bucket", "create", "none", "--ec", "4+0"},
	} {
		assert.Equal(t, exitUsage, run(args...).code, name)
	}
	assert.Equal(t, 1, run("bucket", "set", "kept-twice", "--mirror", "99").code)
	ok(t, run("bucket", "rm", "kept-twice"))
}
