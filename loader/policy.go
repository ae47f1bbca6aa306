package loader

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// Policy says what happens to a sample that can't be read or transformed.
type Policy string

// The policies: Raise ends the iteration with the sample's error; Skip leaves the sample out of its
// batch, counted and named in the stats; Warn is Skip with a log line.
const (
	Raise Policy = "raise"
	Skip  Policy = "skip"
	Warn  Policy = "warn"
)

// Budget is how many samples an iteration may leave out: Count of them, or, where Fraction is set, that part
// of those that it has come to.
type Budget struct {
	Count    int64   `json:"count,omitempty"`
	Fraction float64 `json:"fraction,omitempty"`
}

// graceErrors is up to how many errors a fraction is judged at the end only: the first bad sample of a long
// epoch says little about the rest.
const graceErrors = 10

// ParseBudget reads "10", "0.01" or "1%".
func ParseBudget(text string) (*Budget, error) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		b := &Budget{Count: n}
		return b, b.validate()
	}
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return nil, badRequest("max_errors is a number of samples such as 10, or a part of them such as 0.01 or 1%%, not %q", text)
	}
	if percent {
		v /= 100
	}
	b := &Budget{Fraction: v}
	if v == 0 {
		return b, nil
	}
	return b, b.validate()
}

func (b *Budget) validate() error {
	switch {
	case b == nil:
		return nil
	case b.Count < 0:
		return badRequest("max_errors must be 0 or more, not %d", b.Count)
	case math.IsNaN(b.Fraction) || b.Fraction < 0 || b.Fraction >= 1:
		return badRequest("max_errors as a part of the samples must be between 0 and 1, not %v; a number of samples is whole", b.Fraction)
	}
	return nil
}

// exceeded judges so many errors among the samples seen, of a part of an epoch that may be over.
func (b *Budget) exceeded(errors, seen int64, over bool) bool {
	if b.Fraction == 0 {
		return errors > b.Count
	}
	return (over || errors > graceErrors) && float64(errors) > b.Fraction*float64(seen)
}

func (b *Budget) String() string {
	if b.Fraction == 0 {
		return strconv.FormatInt(b.Count, 10)
	}
	return strconv.FormatFloat(b.Fraction, 'g', -1, 64)
}

// hasAny says whether some column was made of one of the fields.
func (b *batch) hasAny(fields map[string]any) bool {
	for i := range b.cols[:b.ncols] {
		name := b.cols[i].name
		if _, ok := fields[name]; ok {
			return true
		}
		for field := range fields {
			if strings.HasPrefix(name, field+".") {
				return true
			}
		}
	}
	return false
}

// columnsOf names the columns that a description of decoders asks for, sorted.
func columnsOf(decode map[string]any, prefix string) []string {
	var names []string
	for name, how := range decode {
		if members, ok := how.(map[string]any); ok {
			names = append(names, columnsOf(members, prefix+name+".")...)
		} else {
			names = append(names, prefix+name)
		}
	}
	slices.Sort(names)
	return names
}

// judge applies the error policy to a complete batch.
func (it *iteration) judge(b *batch) error {
	if fields := it.l.cfg.Fields; len(fields) > 0 && b.ncols == 0 && len(b.failures) < b.n {
		return api.Errorf(404, api.CodeNoMatch, "no sample of batch %d has any of the fields %.100q; `shardstream dataset inspect` lists those of the shards", b.index, fields)
	}
	if decode := it.l.cfg.Decode; len(decode) > 0 && len(b.failures) < b.n && !b.hasAny(decode) {
		return api.Errorf(404, api.CodeNoMatch, "no sample of batch %d has any of the fields %.100q that decode names; `shardstream dataset inspect` lists those of the shards", b.index, columnsOf(decode, ""))
	}
	if len(b.failures) == 0 {
		return nil
	}
	for i := range b.failures {
		f := &b.failures[i]
		pos := b.spec.Start + int64(f.place)
		if it.l.cfg.OnError == Raise {
			return &SampleError{Key: f.key, Position: pos, Code: f.code, Message: f.message}
		}
		if len(b.failures) == b.n && !b.pad {
			return noneLeft(b)
		}
		if it.l.cfg.OnError == Warn {
			it.l.cfg.Logger.Warn("sample skipped", "key", f.key, "position", pos, "code", f.code, "reason", f.message)
		}
		if b.spec.Pad == 0 { // else it is another rank's, and counted there
			it.counters.skip(f, pos)
		}
	}
	return it.overBudget(it.counters.samples+it.counters.skipped+b.samples(), false)
}

// noneLeft is the error of a batch that would be empty.
func noneLeft(b *batch) error {
	f := &b.failures[0]
	return &SampleError{
		Key: f.key, Position: b.spec.Start + int64(f.place), Code: f.code,
		Message: fmt.Sprintf("none of the %d samples of batch %d is left to go on with (with pad, such a batch is all padding); this one: %s", b.n, b.index, f.message),
	}
}

// overBudget ends the iteration where more samples failed than may.
func (it *iteration) overBudget(seen int64, over bool) error {
	c, budget := &it.counters, it.l.cfg.MaxErrors
	if budget == nil || c.skipped == 0 || !budget.exceeded(c.skipped, seen, over) {
		return nil
	}
	return &BudgetError{Budget: *budget, Errors: c.skipped, Seen: seen, ByCode: c.byCode, Keys: c.skippedKeys, Last: c.lastSkipped}
}

// findForm looks for what the columns of a batch without a sample would have been: those of the last batch
// that had one, or, at the beginning, of one that comes after. False where the latter is still to come.
func (it *iteration) findForm(b *batch) (bool, error) {
	it.hungry = false
	if len(it.form) > 0 {
		return true, nil
	}
	last := min(it.deliver+int64(it.l.cfg.Prefetch), it.batches)
	for i := it.deliver + 1; i < last; i++ {
		other := it.window[i]
		if other == nil || !other.complete() {
			it.hungry = true
			it.cond.Broadcast() // it may take new memory
			return false, nil
		}
		if other.arrange() {
			it.form.remember(other)
			return true, nil
		}
	}
	return false, noneLeft(b)
}
