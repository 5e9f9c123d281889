package engine

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/vem/wake"
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
		op := eng.Events.Begin(event.Wake, event.About{App: a.Name(), Reason: string(by)})
		out, err := eng.wakeAs(ctx, a, by, op)
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

// tellWakers notes which timer of an app that is hibernated will not wake it, and whether
// nothing at all will.
func (a *App) tellWakers(rec *app.Record, first *alarm.Alarm) {
	if first != nil && !rec.Wake.Timers {
		every := ""
		if first.Every > 0 {
			every = ", and each " + first.Every.String() + " after that"
		}
		text := fmt.Sprintf("%s would expire at %s%s: it stands still while the app is hibernated", first.Timer, first.At.UTC().Format(time.RFC3339), every)
		a.Remark(text, "run the app with --wake-timers, and its timers wake it")
	}
	held := a.Endpoint.Held()
	if rec.Wake.Mode == wake.Never || first != nil && rec.Wake.Timers || held == nil || wake.Strongest(held, rec.Wake, rec.Own()) != wake.Nobody {
		return
	}
	a.Remark(fmt.Sprintf("nothing but `snapctl wake %s` can wake it: it listens nowhere, has no connection to anybody else, and no timer that may wake it", rec.Name), "")
}
