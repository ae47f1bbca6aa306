package api

import (
	"fmt"
	"os"
	"strings"

	"github.com/zeebo/xxh3"
)

// LocalSocket names the Unix socket on which a target serves clients of its own machine, beside its
// address: an abstract one, so that it is gone with the process and other machines, and containers with
// a network of their own, can't see it.
func LocalSocket(cluster, node string) string {
	return fmt.Sprintf("@shardstream/%016x", xxh3.HashString(cluster+"/"+node))
}

// EnvSharedMemory switches the shared memory of targets and loaders on one machine off.
const EnvSharedMemory = "SHARDSTREAM_SHARED_MEMORY"

// SharedMemory says whether the environment leaves shared memory on: anything but off, 0, no and false does.
func SharedMemory() bool {
	switch strings.ToLower(os.Getenv(EnvSharedMemory)) {
	case "off", "0", "no", "false":
		return false
	}
	return true
}
