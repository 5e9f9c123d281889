package daemon

import (
	"context"
	"log/slog"

	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/metrics"
	"github.com/snapctl/snapctl/runtime/sleeper"
	"github.com/snapctl/snapctl/snapshot/criu"
)

// openEvents makes the source of events, and counts them if somebody may read the metrics.
func (d *Daemon) openEvents() {
	if d.opt.Metrics == nil {
		d.rooms.Events = event.NewBus(nil)
		return
	}
	d.metrics = metrics.New(d.opt.Version, d.state)
	d.rooms.Events = event.NewBus(d.metrics)
}

// serveMetrics serves the metrics, if they are to be, until stop is called.
func (d *Daemon) serveMetrics(ctx context.Context) (stop func() error, err error) {
	if d.metrics == nil {
		return func() error { return nil }, nil
	}
	return d.metrics.Start(ctx, *d.opt.Metrics)
}

// logEvents logs the end of each operation and of each app, until stop is called.
func (d *Daemon) logEvents(ctx context.Context) (stop func()) {
	ctx = context.WithoutCancel(ctx) // the last ones are logged while the daemon ends
	ends := event.Filter{Types: []event.Type{event.Ended, event.Exited}}
	return d.rooms.Events.Listen(ctx, event.Options{Filter: ends}, func(e event.Event) { d.logEvent(ctx, &e) })
}

func (d *Daemon) logEvent(ctx context.Context, e *event.Event) {
	var attrs []slog.Attr
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	switch e.Type { //nolint:exhaustive // others are not logged
	case event.Exited:
		d.log.InfoContext(ctx, "app ended", slog.String("app", e.App), slog.String("exit", e.Reason))
	case event.Missed:
		d.log.WarnContext(ctx, "too much happened to be logged", slog.Uint64("missed", e.Missed))
	case event.Ended:
		add("operation", string(e.Kind))
		add("app", e.App)
		add("template", e.Template)
		add("snapshot", e.Snapshot)
		add("reason", e.Reason)
		attrs = append(attrs, slog.Duration("took", e.Took))
		if e.Err == nil {
			d.log.LogAttrs(ctx, levelOf(e), "operation finished", attrs...)
			return
		}
		add("error", criu.Explain(e.Err))
		d.log.LogAttrs(ctx, levelOf(e), "operation failed", attrs...)
	}
}

// levelOf is how much the end of an operation matters to who reads the log.
func levelOf(e *event.Event) slog.Level {
	switch {
	case e.Kind == event.Clone, e.Kind == event.HandOut, e.Kind == event.FillPool:
		return slog.LevelDebug // the request tells how it went, or the pool why it is not full
	case e.Err != nil && e.Reason == sleeper.ByIdleness:
		return slog.LevelDebug // it is tried again and again: the sleeper tells what is new
	case e.Err != nil:
		return slog.LevelError
	default:
		return slog.LevelInfo
	}
}
