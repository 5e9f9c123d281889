package daemon

import (
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/event"
)

// TestGarbageIsCollected proves that what operations leave is collected some time after the last one.
func TestGarbageIsCollected(t *testing.T) {
	d := furnished(t, slog.New(slog.DiscardHandler))
	collections := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	defer d.collectGarbage(t.Context())()
	before := collections()
	d.rooms.Events.Begin(event.Hibernate, event.About{App: "web"}).End(nil)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(time.Minute); collections() == before; <-again.C {
		qt.Assert(t, qt.IsTrue(time.Now().Before(end)))
	}
}
