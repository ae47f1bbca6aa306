package archive

import "context"

// ScanInSegments is Scan that reads ahead in segments of that length.
func ScanInSegments(ctx context.Context, read ReadAt, size int64, o ScanOptions, length int64) (*Index, error) {
	return scan(ctx, read, size, o, length)
}
