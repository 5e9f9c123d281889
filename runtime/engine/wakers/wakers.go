// Package wakers tells what of an app that is hibernated will not wake it, though one might expect it.
package wakers

import (
	"fmt"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/wake"
)

// Notes tell which timer of an app that is hibernated will not wake it, and whether nothing at all will. first is the
// first of its timers to expire, nil if none is armed, and held are its sockets, nil if none is held.
func Notes(rec *app.Record, first *alarm.Alarm, held *hold.Set) (notes []app.Note) {
	if first != nil && !rec.Wake.Timers {
		every := ""
		if first.Every > 0 {
			every = ", and each " + first.Every.String() + " after that"
		}
		text := fmt.Sprintf("%s would expire at %s%s: it stands still while the app is hibernated", first.Timer, first.At.UTC().Format(time.RFC3339), every)
		notes = append(notes, app.Note{Text: text, Remedy: "run the app with --wake-timers, and its timers wake it"})
	}
	if rec.Wake.Mode == wake.Never || first != nil && rec.Wake.Timers || held == nil || wake.Strongest(held, rec.Wake, rec.Own()) != wake.Nobody {
		return notes
	}
	text := fmt.Sprintf("nothing but `snapctl wake %s` can wake it: it listens nowhere, has no connection to anybody else, and no timer that may wake it", rec.Name)
	return append(notes, app.Note{Text: text})
}
