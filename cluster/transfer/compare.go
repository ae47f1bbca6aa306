package transfer

import (
	"context"
	"io"
	"time"

	"github.com/shardstream/shardstream/core/backend"
)

// Reasons why a file is copied, or is not.
const (
	ReasonNew      = "missing"
	ReasonSize     = "other size"
	ReasonContent  = "other content"
	ReasonNewer    = "newer"
	ReasonExtra    = "not at the source"
	ReasonExists   = "exists"
	ReasonSameSum  = "same checksum"
	ReasonSameTime = "same size, and as new"
	ReasonSameSize = "same size"
)

// compare says whether the destination has what the source has, and how it knows.
func (r *run) compare(ctx context.Context, from Side, source File, to Side, destination File) (same bool, reason string, err error) {
	if source.Size < 0 { // listings of web servers may not tell
		if source, err = from.Stat(ctx, source.Name); err != nil {
			return false, "", err
		}
	}
	if source.Size >= 0 && source.Size != destination.Size {
		return false, ReasonSize, nil
	}
	if common, difference := compareSums(source.Sums, destination.Sums); common {
		return difference == "", contentReason(difference), nil
	}
	if r.o.Checksum {
		return r.compareContent(ctx, from, source, to, destination)
	}
	if source.Modified.IsZero() {
		if source, err = from.Stat(ctx, source.Name); err != nil {
			return false, "", err
		}
	}
	switch {
	case source.Modified.IsZero() || destination.Modified.IsZero():
		return source.Size >= 0, ReasonSameSize, nil
	case source.Modified.Truncate(time.Second).After(destination.Modified):
		return false, ReasonNewer, nil
	}
	return true, ReasonSameTime, nil
}

func contentReason(difference string) string {
	if difference == "" {
		return ReasonSameSum
	}
	return ReasonContent
}

// compareContent compares checksums that the sides have only when they are asked, else reads what it must.
func (r *run) compareContent(ctx context.Context, from Side, source File, to Side, destination File) (bool, string, error) {
	var err error
	if source, err = from.Stat(ctx, source.Name); err != nil {
		return false, "", err
	}
	if destination, err = to.Stat(ctx, destination.Name); err != nil {
		return false, "", err
	}
	if common, difference := compareSums(source.Sums, destination.Sums); common {
		return difference == "", contentReason(difference), nil
	}
	// A side that has a checksum need not be read, if the other side is read for the same.
	a, b := source.Sums, destination.Sums
	if !hasSums(a) || hasSums(b) {
		if a, err = r.read(ctx, from, source, b); err != nil {
			return false, "", err
		}
	}
	if common, _ := compareSums(a, b); !common {
		if b, err = r.read(ctx, to, destination, a); err != nil {
			return false, "", err
		}
	}
	_, difference := compareSums(a, b)
	return difference == "", contentReason(difference), nil
}

func hasSums(s backend.Sums) bool {
	return s.XXH3 != nil || s.CRC32C != nil || len(s.MD5) > 0 || len(s.SHA256) > 0
}

// read reads a file for its checksums, with those that others have among them.
func (r *run) read(ctx context.Context, side Side, file File, others backend.Sums) (backend.Sums, error) {
	body := newBody(ctx, side, file, false, r.limit, func(int64) {})
	defer body.Close()
	body.sums = newHasher(others, false)
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{body}, make([]byte, 1<<20)); err != nil {
		return backend.Sums{}, err
	}
	sums, _ := body.Sums()
	return sums, nil
}
