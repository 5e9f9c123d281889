package alarm_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
)

func TestWait(t *testing.T) {
	for name, at := range map[string]time.Time{
		"passed":       time.Now().Add(-time.Hour),
		"before epoch": time.Unix(-5, 0),
		"soon":         time.Now().Add(time.Millisecond),
	} {
		t.Run(name, func(t *testing.T) {
			qt.Assert(t, qt.IsNil(alarm.Wait(t.Context(), at)))
			qt.Assert(t, qt.IsFalse(time.Now().Before(at)))
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- alarm.Wait(ctx, time.Now().Add(time.Hour)) }()
	cancel()
	qt.Assert(t, qt.ErrorIs(<-done, context.Canceled))
}

// TestFirst finds none in the images of a program without timers.
func TestFirst(t *testing.T) {
	got, err := alarm.First(imagetest.Dump(t, "plain"), time.Now())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(got))
	_, err = alarm.First(t.TempDir(), time.Now())
	qt.Assert(t, qt.IsNotNil(err))
}
