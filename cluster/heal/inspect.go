package heal

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

const (
	// What looks wrong may be a write that is under way: it is looked at again before it is told.
	inspections  = 4
	inspectPause = 300 * time.Millisecond
)

// Finding is a copy that is not where it should be, or an object that lacks some.
type Finding struct {
	Info   store.Info
	Detail string
}

// Inspection is what one target finds about what lies on it. All targets' together are the cluster's: each object is
// counted, and its lack of copies told, by one of them.
type Inspection struct {
	Objects int64
	Missing []Finding // objects with fewer copies or slices than they are to have
	Stray   []Finding // copies that belong elsewhere, while nothing is to move them
}

// Inspect compares what lies here with where the map and the buckets' redundancy want it, and changes nothing.
func (h *Healer) Inspect(ctx context.Context) (Inspection, error) {
	var found Inspection
	s := h.current()
	for i := range s.Buckets {
		b := &s.Buckets[i]
		for last, more := "", true; more; {
			infos, next, err := h.list(b, last, pageSize)
			if err != nil {
				return found, err
			}
			if more = next && len(infos) > 0; more {
				last = infos[len(infos)-1].Name
			}
			if err := h.inspect(ctx, s, b, infos, &found); err != nil {
				return found, err
			}
		}
	}
	return found, nil
}

// inspect looks at a page.
func (h *Healer) inspect(ctx context.Context, s State, b *Bucket, infos []store.Info, found *Inspection) error {
	settled := s.Placer.Layout().Settled() && len(b.Was) == 0 && h.Report().Clean
	for try := 1; len(infos) > 0; try++ {
		page, err := h.ask(ctx, s, b, infos, false)
		if err != nil {
			return err
		}
		var again []string
		for i := range page.keys {
			k := &page.keys[i]
			missing, err := h.missing(ctx, k)
			if err != nil && try == inspections {
				return err
			}
			stray := settled && k.Misplaced && k.info.Kind != store.Tombstone
			if try < inspections && (err != nil || missing != "" || stray) {
				again = append(again, k.info.Name)
				continue
			}
			if k.Mine && k.info.Kind != store.Tombstone {
				found.Objects++
			}
			if missing != "" {
				found.Missing = append(found.Missing, Finding{k.info, missing})
			}
			if stray {
				found.Stray = append(found.Stray, Finding{k.info, "a copy that belongs on " + strings.Join(k.copies, ", ")})
			}
		}
		if len(again) == 0 {
			return nil
		}
		if !pause(ctx, inspectPause) {
			return context.Cause(ctx)
		}
		s = h.current()
		if infos, err = h.states(b.Name, again); err != nil {
			return err
		}
	}
	return nil
}

// missing says what an object lacks that is this target's to tell; "" for nothing.
func (h *Healer) missing(ctx context.Context, k *key) (string, error) {
	if k.info.Kind == store.Tombstone {
		return "", nil
	}
	if k.Unsure {
		return "", api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
			"not all of %s tell whether they have %s", strings.Join(k.copies, ", "), api.Address(k.info.Bucket, k.info.Name))
	}
	if !k.Mine {
		return "", nil
	}
	if k.Lacking || k.Short {
		var have []string
		for _, id := range k.copies {
			if a, ok := k.answers[id]; id == h.c.Self && k.info.Kind != store.Lost || ok && a.Version >= k.info.Version && !a.Lost {
				have = append(have, id)
			}
		}
		return fmt.Sprintf("%d of %d copies are where they belong (%s)", len(have), k.want, strings.Join(have, ", ")), nil
	}
	if k.info.Data == 0 || h.c.Slices == nil {
		return "", nil
	}
	slices, err := h.c.Slices.Missing(ctx, k.info)
	if err != nil || slices == 0 {
		return "", err
	}
	return fmt.Sprintf("%d of %d slices are missing where they belong", slices, k.info.Data+k.info.Parity), nil
}
