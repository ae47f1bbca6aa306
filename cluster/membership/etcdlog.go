package membership

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap/zapcore"
)

// logCore hands etcd's warnings and errors to the node's logger; its chatter stays behind.
type logCore struct {
	log    *slog.Logger
	fields []zapcore.Field
	closed *atomic.Bool // it calls the end of its own listeners errors
}

// passing are errors to etcd that are none: of a new store before its first snapshot, and of a learner that has yet to catch
// up. They are tried again.
var passing = map[string]bool{
	"failed to update storage version":                true,
	"rejecting promote learner: learner is not ready": true,
}

func newLogCore(log *slog.Logger, closed *atomic.Bool) zapcore.Core {
	return &logCore{log: log.With("part", "etcd"), closed: closed}
}

func (c *logCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c *logCore) With(fields []zapcore.Field) zapcore.Core {
	return &logCore{log: c.log, closed: c.closed, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *logCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(values)
	}
	attrs := make([]any, 0, len(values.Fields))
	for k, v := range values.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	level := slog.LevelDebug // etcd warns of slow disks and lost streams all day
	if e.Level >= zapcore.ErrorLevel && !c.closed.Load() && !passing[e.Message] {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, e.Message, attrs...)
	return nil
}

func (c *logCore) Sync() error { return nil }
