package server

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
)

// TestEachStatusIsShown goes through all steps that there are.
func TestEachStatusIsShown(t *testing.T) {
	for from, code := range statusCodes {
		qt.Check(t, qt.IsTrue(from.Known()), qt.Commentf("%q", from))
		qt.Check(t, qt.Not(qt.Equals(code, api.Status_STATUS_UNSPECIFIED)), qt.Commentf("%q", from))
	}
	for _, s := range app.Statuses() {
		_, ok := statusCodes[s]
		qt.Check(t, qt.IsTrue(ok), qt.Commentf("%q is not shown", s))
	}
}
