package daemon

import (
	"context"
	"runtime"
	"time"

	"github.com/snapctl/snapctl/runtime/event"
)

// quiet is how long after the last operation the daemon collects its garbage.
const quiet = time.Second

// collectGarbage collects this process's garbage once operations have ended and none has followed,
// until stop is called. What operations leave is several times what a daemon needs whose apps all
// sleep, and the Go runtime would collect it after 2 minutes (runtime/proc.go, forcegcperiod). What
// is free then it gives back to the kernel by and by, but for what the next operation will use
// (runtime/mgcscavenge.go, retainExtraPercent).
//
// Cost: some 5 ms of processor time for a thousand apps, beside what else goes on.
func (d *Daemon) collectGarbage(ctx context.Context) (stop func()) {
	timer := time.AfterFunc(quiet, runtime.GC)
	ended := event.Filter{Types: []event.Type{event.Ended}}
	end := d.rooms.Events.Listen(ctx, event.Options{Filter: ended}, func(event.Event) { timer.Reset(quiet) })
	return func() {
		end()
		timer.Stop()
	}
}
