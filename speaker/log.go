package speaker

import (
	"context"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// engineLog passes GoBGP's log on to ours. What GoBGP calls information and warnings is about neighbours with addresses
// of 127/8 that live as long as one connection; sessions report the same in the operator's terms, so that this is for
// debugging. Only its errors are worth a warning.
type engineLog struct {
	log   logrus.FieldLogger
	level logrus.Level
}

func newEngineLog(log logrus.FieldLogger) *slog.Logger {
	h := engineLog{log: log, level: logrus.InfoLevel}
	switch l := log.(type) {
	case *logrus.Logger:
		h.level = l.GetLevel()
	case *logrus.Entry:
		h.level = l.Logger.GetLevel()
	}
	return slog.New(h)
}

func (h engineLog) Enabled(_ context.Context, l slog.Level) bool {
	switch {
	case l >= slog.LevelError:
		return h.level >= logrus.WarnLevel
	case l >= slog.LevelInfo:
		return h.level >= logrus.DebugLevel
	default:
		return h.level >= logrus.TraceLevel
	}
}

func (h engineLog) Handle(_ context.Context, r slog.Record) error {
	fields := make(logrus.Fields, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		fields[a.Key] = a.Value.Any()
		return true
	})
	log := h.log.WithFields(fields)
	if r.Level >= slog.LevelError {
		log.Warn("bgp engine: " + r.Message)
	} else {
		log.Debug("bgp engine: " + r.Message)
	}
	return nil
}

func (h engineLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := make(logrus.Fields, len(attrs))
	for _, a := range attrs {
		fields[a.Key] = a.Value.Any()
	}
	return engineLog{h.log.WithFields(fields), h.level}
}

func (h engineLog) WithGroup(string) slog.Handler { return h }
