package e2e

import (
	"fmt"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// TestRefuse has an app keep what can't be hibernated. It is told so before
// anything is frozen, and goes on; without the thing it can be.
func TestRefuse(t *testing.T) {
	w := New(t)
	for thing, what := range map[string]string{
		"io_uring": "io_uring", "mptcp": "MPTCP socket", "tun": "TUN/TAP device", "loop": "device", "userfaultfd": "userfaultfd",
	} {
		t.Run(thing, func(t *testing.T) {
			w := w.in(t)
			s := w.survivor("survivor")
			s.ok("setup %s", thing)
			_, err := w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "survivor"}, nil)
			qt.Assert(t, qt.ErrorMatches(err, fmt.Sprintf(`(?s).*process \d+ has an unsupported %s.* open as descriptor \d+: .+`, what)))
			_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
			qt.Assert(t, qt.ErrorMatches(err, fmt.Sprintf(`(?s).*process \d+ has an unsupported %s.*`, what)))
			qt.Assert(t, qt.Equals(w.Show("survivor").GetStatus(), api.Status_STATUS_RUNNING))

			s.ok("check %s", thing) // it closes it
			w.Hibernate("survivor")
			w.Wake("survivor")
			s.ok("setup eventfd")
			s.ok("check eventfd")
		})
	}
}
