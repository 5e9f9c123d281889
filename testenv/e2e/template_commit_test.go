package e2e

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestClonesThatCannotBeCommitted keeps the daemon from saying that a request is
// over: no clone stays, and the next daemon forgets the request.
func TestClonesThatCannotBeCommitted(t *testing.T) {
	w, s, clients, g := pausedAt(t, "clone-request.complete")
	ended := make(chan error, 1)
	go func() { ended <- s.do(w) }()
	stop, err := g.Wait(t.Context())
	qt.Assert(t, qt.IsNil(err))
	found, err := filepath.Glob(filepath.Join(w.Outside(w.StateDir()), "batches", "*"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(found, 1))
	request := filepath.Join(w.StateDir(), "batches", filepath.Base(found[0]))
	run(t, w.Host, "mount", "--bind", request, request) // nobody removes a mount point
	qt.Assert(t, qt.IsNil(stop.Continue()))
	err = <-ended
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*commit clones: .*device or resource busy.*`))
	w.settled()
	w.onlyCache()
	// Others are not in its way.
	open(t, g)
	made := w.clones(&api.CloneRequest{Template: "t", Names: []string{"a", "b"}})
	qt.Assert(t, qt.HasLen(made, 2))
	w.remove("a", "b")
	run(t, w.Host, "umount", request)
	qt.Assert(t, qt.IsNil(w.RestartDaemon(t.Context(), syscall.SIGKILL, host.Daemon{})))
	w.Dial()
	w.empties("batches")
	s.undone(w)
	goesOn(w, clients)
}
