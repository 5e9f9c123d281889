package engine

import (
	"context"
	"log/slog"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/event"
)

// wakeBy wakes an app for which nobody has asked by a command. It starts another goroutine
// for that: waking disarms, and disarm waits for the end of the caller.
func (eng *Engine) wakeBy(ctx context.Context, a *App, by app.WokenBy) {
	if by == app.ByTimer {
		eng.log.InfoContext(ctx, "its timer wakes app", slog.String("app", a.Name()), slog.String("reason", string(by)))
	} else {
		eng.log.InfoContext(ctx, "traffic wakes app", slog.String("app", a.Name()), slog.String("reason", string(by)))
	}
	eng.tasks.Run(func(ctx context.Context) {
		rec, _ := a.Read()
		how := Awakening{By: by, Pages: rec.RestoreMemory, AcceptChanged: rec.AcceptChanged}
		if rec.WakeElsewhere != "" && by != app.ByTimer && eng.elsewhere != nil {
			var left bool
			if left, how.Notes = eng.elsewhere(ctx, a); left {
				return
			}
		}
		op := eng.Events.Begin(event.Wake, event.About{App: a.Name(), Reason: string(by)})
		out, err := eng.Wake(ctx, a, how, op)
		op.End(err)
		switch {
		case err == nil && len(out.Sockets) > 0: // nobody is there to be told
			a.Note(checkpoint.Incomplete("wake", out.Sockets))
		case err != nil:
			a.Endpoint.WakeFailed()
			a.Note(err)
		}
	})
}
