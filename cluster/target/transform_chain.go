package target

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/outputs"
)

// chain is what ?etl= and ?etl_args= ask for. It holds its runtimes: a definition that changes meanwhile is not seen, so
// one answer is made by one version.
type chain struct {
	links   []link
	level   string // LevelObject, or LevelSample for samples and batches of them
	release func()
}

// link is one transformation of a chain.
type link struct {
	runtime    etl.Runtime
	definition etl.Definition
	args       etl.Args // merged with the definition's
}

// chainOf finds the runtimes of a chain and checks that they go together. The caller releases it.
func (e *ETLs) chainOf(names []string, document etl.Args) (_ *chain, err error) {
	if len(names) > maxChain {
		return nil, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%d transformations in a row, at most %d", len(names), maxChain)
	}
	args, err := argsOf(names, document)
	if err != nil {
		return nil, err
	}
	var releases []func()
	c := &chain{release: func() {
		for _, release := range releases {
			release()
		}
	}}
	defer func() {
		if err != nil {
			c.release()
		}
	}()
	for i, name := range names {
		runtime, release, err := e.hold(name)
		if err != nil {
			return nil, err
		}
		releases = append(releases, release)
		definition := runtime.Definition()
		merged, err := definition.MergeArgs(args[i])
		if err != nil {
			return nil, etlError("etl "+name, err)
		}
		c.links = append(c.links, link{runtime: runtime, definition: definition, args: merged})
	}
	if err := c.checkLevels(); err != nil {
		return nil, err
	}
	return c, nil
}

// checkLevels refuses a chain whose links don't fit together: samples travel as dicts, objects as bytes.
func (c *chain) checkLevels() error {
	for _, l := range c.links {
		level := l.definition.Level
		if level == etl.LevelBatch {
			level = etl.LevelSample
		}
		if c.level == "" {
			c.level = level
		}
		if level != c.level {
			first := c.links[0].definition
			return api.Errorf(http.StatusBadRequest, api.CodeBadRequest,
				"etl %q works on level %q, %q on level %q; a chain needs one level (sample and batch go together)",
				first.Name, first.Level, l.definition.Name, l.definition.Level)
		}
	}
	return nil
}

// steps are the chain as an output's identity has it.
func (c *chain) steps() []outputs.Step {
	steps := make([]outputs.Step, len(c.links))
	for i, l := range c.links {
		steps[i] = outputs.Step{ETL: l.definition.Name, Version: l.definition.Version, Args: l.args}
	}
	return steps
}

// patience is how long the chain may keep a request waiting.
func (c *chain) patience() time.Duration {
	d := transformPause
	for _, l := range c.links {
		d += l.definition.Timeout
	}
	return d
}

// argsOf takes ?etl_args= apart: an object for one transformation, an array with an object or null for each of a chain.
func argsOf(names []string, document etl.Args) ([]etl.Args, error) {
	args := make([]etl.Args, len(names))
	document = bytes.TrimSpace(document)
	if len(document) == 0 {
		return args, nil
	}
	bad := func(format string, values ...any) error {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "etl_args "+format, values...)
	}
	if document[0] == '[' {
		if err := json.Unmarshal(document, &args); err != nil {
			return nil, bad("is not JSON: %v", err)
		}
		if len(args) != len(names) {
			return nil, bad("has %d entries for %d transformations; give each an object, or null", len(args), len(names))
		}
	} else if args[0] = document; len(names) > 1 {
		return nil, bad("must be an array with an object, or null, for each of %d transformations", len(names))
	}
	for i := range args {
		if bytes.Equal(args[i], []byte("null")) {
			args[i] = nil
		}
		if err := etl.ValidateArgs(args[i]); err != nil {
			return nil, bad("of etl %q: %v", names[i], err)
		}
	}
	return args, nil
}

// stall ends work that keeps its request waiting for too long. It counts only the time that is watched, not that in
// which a client takes its bytes.
type stall struct {
	ctx    context.Context //nolint:containedctx // that of the work
	cancel context.CancelCauseFunc
	limit  time.Duration

	mu    sync.Mutex
	timer *time.Timer
}

func newStall(ctx context.Context, limit time.Duration) *stall {
	s := &stall{limit: limit}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s
}

// watch begins to count, until what it returns is called.
func (s *stall) watch() (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil {
		s.timer = time.AfterFunc(s.limit, func() {
			s.cancel(api.Errorf(http.StatusGatewayTimeout, api.CodeUnavailable,
				"the transformation gave nothing for %v, of which its own time limit is a part; too much may be under way", s.limit))
		})
	} else {
		s.timer.Reset(s.limit)
	}
	return s.pause
}

func (s *stall) pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
}

// end ends the work as well. It may be called for none.
func (s *stall) end() {
	if s != nil {
		s.pause()
		s.cancel(nil)
	}
}
