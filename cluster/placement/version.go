package placement

// A version of an object is a number: above all that earlier maps gave, a map version and a counter of the
// object's primary under that map. The primary follows from the map and the name, so two writes never have one
// version, and versions order as (map version, primary, counter).
const (
	counterBits = 38
	epochBits   = 24
	// versionMark lifts versions above the times of day, in nanoseconds, that were versions once.
	versionMark = 1 << (counterBits + epochBits)
)

// FirstVersion is below all versions of a map version and above all of earlier ones.
func FirstVersion(epoch int64) uint64 {
	return versionMark | uint64(epoch&(1<<epochBits-1))<<counterBits
}

// EpochOf is the map version that a version was given under; 0 where it was none.
func EpochOf(version uint64) int64 {
	if version&versionMark == 0 {
		return 0
	}
	return int64(version >> counterBits & (1<<epochBits - 1))
}
