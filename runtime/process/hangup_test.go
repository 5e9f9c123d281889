package process

import (
	"bufio"
	"os/exec"
	"testing"

	"github.com/go-quicktest/qt"
)

// started is a process that has said that it is ready.
func started(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", script)
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(cmd.Start()))
	_, err = bufio.NewReader(out).ReadString('\n')
	qt.Assert(t, qt.IsNil(err))
	return cmd
}

func TestHangUp(t *testing.T) {
	polite := started(t, `trap 'exit 5' HUP; echo ready; while :; do sleep 0.1; done`)
	deaf := started(t, `trap '' HUP; echo ready; while :; do sleep 0.1; done`)
	gone := started(t, `echo ready`)
	_ = gone.Wait()
	ended := make(chan int, 1)
	go func() { // reaped at once, as a session is by who waits for it
		_ = polite.Wait()
		ended <- polite.ProcessState.ExitCode()
	}()
	qt.Assert(t, qt.IsNil(HangUp(t.Context(), []int{polite.Process.Pid, deaf.Process.Pid, gone.Process.Pid})))
	qt.Check(t, qt.Equals(<-ended, 5))
	qt.Check(t, qt.ErrorMatches(deaf.Wait(), "signal: killed"))
}
