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
		"io_uring":       `io_uring open as descriptor \d+`,
		"mptcp":          `MPTCP socket open as descriptor \d+`,
		"tun":            `TUN/TAP device /tmp/tun open as descriptor \d+`,
		"loop":           `device /tmp/loop .*open as descriptor \d+`,
		"userfaultfd":    `userfaultfd open as descriptor \d+`,
		"inotify-proc":   `inotify instance with events that wait to be read open as descriptor \d+`,
		"traced":         `debugger, process \d+`,
		"pid-namespace":  `pid namespace of its own`,
		"net-namespace":  `net namespace of its own`,
		"user-namespace": `user namespace of its own`,
		"ipc-namespace":  `ipc namespace of its own`,
		"uts-namespace":  `uts namespace of its own`,
	} {
		t.Run(thing, func(t *testing.T) {
			w := w.in(t)
			s := w.survivor("survivor")
			s.ok("setup %s", thing)
			want := fmt.Sprintf(`(?s).*process \d+ (has|uses) an unsupported %s: .+`, what)
			_, err := w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "survivor"}, nil)
			qt.Assert(t, qt.ErrorMatches(err, want))
			_, err = w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "survivor", Name: "saved"}, nil)
			qt.Assert(t, qt.ErrorMatches(err, want))
			qt.Assert(t, qt.Equals(w.Show("survivor").GetStatus(), api.Status_STATUS_RUNNING))

			s.ok("check %s", thing) // it closes it
			w.Hibernate("survivor")
			w.Wake("survivor")
			s.ok("setup eventfd")
			s.ok("check eventfd")
		})
	}
}

// TestRefuseWaitingUnixClient has a client of the app wait in an accept queue
// with data, which CRIU can't read. It lasts only until the app accepts it.
func TestRefuseWaitingUnixClient(t *testing.T) {
	w := New(t)
	s := w.survivor("survivor")
	s.ok("setup unix-listener-early")
	_, err := w.API.Hibernate(t.Context(), &api.HibernateRequest{Name: "survivor"}, nil)
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*process \d+ has an unsupported unix listener with a waiting connection .* open as descriptor \d+: try again.*`))
	s.ok("check unix-listener-early")
	w.Hibernate("survivor")
	w.Wake("survivor")
	s.ok("setup eventfd")
}
