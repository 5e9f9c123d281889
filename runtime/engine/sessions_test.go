package engine

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/process"
)

// An app that was hibernated and woken while a command waited for its turn has
// other processes.
func TestExecWhereItsProcessesHaveEnded(t *testing.T) {
	a := &App{App: app.New("", "", app.Record{Identity: app.Identity{Name: "app"}, State: app.State{Status: app.Running, Process: process.Identity{PID: 8}}})}
	_, err := a.StartSession(t.Context(), nil, 7, nil)
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	_, free := a.TryTake("test")
	qt.Assert(t, qt.IsTrue(free))
}
