package process_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/process"
)

// TestIdentity follows a process from its start to its end.
func TestIdentity(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	qt.Assert(t, qt.IsNil(cmd.Start()))
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	id, err := process.Identify(cmd.Process.Pid)
	qt.Assert(t, qt.IsNil(err))
	parent, err := process.ParentOf(id.PID)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(parent, os.Getpid()))

	p := id.Open()
	qt.Assert(t, qt.IsNotNil(p))
	defer p.Close()
	other := process.Identity{PID: id.PID, StartTime: id.StartTime - 1}
	qt.Check(t, qt.IsNil(other.Open())) // another process had this number
	qt.Check(t, qt.IsNil(process.Identity{}.Open()))

	qt.Assert(t, qt.IsNil(p.Signal(unix.SIGKILL)))
	qt.Check(t, qt.IsNil(id.Open())) // killed, perhaps not ended yet
	status, err := p.Wait()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(!status.Known || status.Signal == int(unix.SIGKILL)), qt.Commentf("%v", status))
	qt.Check(t, qt.IsNil(id.Open()))
}

func TestNoRootProcess(t *testing.T) {
	p, err := process.OpenRoot([]int{os.Getpid()})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(p))
}
