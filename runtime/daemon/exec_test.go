package daemon

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
)

// An app that was hibernated and woken while a command waited for its turn has
// other processes.
func TestExecWhereItsProcessesHaveEnded(t *testing.T) {
	a := &app{turn: make(chan struct{}, 1), rec: record{Name: "app", Status: Running, Process: processRecord{PID: 8}}}
	err := (&Daemon{}).startExec(t.Context(), a, nil, 7)
	qt.Assert(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Assert(t, qt.HasLen(a.turn, 0))
}
