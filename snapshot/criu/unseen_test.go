package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

// TestFill reads from a sock_diag socket what was put into its queue, as CRIU
// does.
func TestFill(t *testing.T) {
	testenv.Need(t, testenv.Root)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	qt.Assert(t, qt.IsNil(err))
	defer unix.Close(fd)
	want := make([][]byte, 5000)
	for i := range want {
		want[i] = fmt.Appendf(nil, "socket %d", i)
	}
	qt.Assert(t, qt.IsNil(fill(os.Getpid(), fd, want)))
	var got [][]byte
	buf := make([]byte, 16<<10)
	for len(got) < len(want) {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(n <= len(buf)))
		for b := buf[:n]; len(b) > 0; {
			size := int(binary.NativeEndian.Uint32(b))
			qt.Assert(t, qt.Equals(binary.NativeEndian.Uint32(b[8:]), criuSeq))
			got = append(got, bytes.Clone(b[unix.SizeofNlMsghdr:size]))
			b = b[min(len(b), (size+3)&^3):]
		}
	}
	qt.Assert(t, qt.DeepEquals(got, want))
	_, _, err = unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
	qt.Assert(t, qt.ErrorIs(err, unix.EAGAIN))
}

// TestKilledInAStop kills a traced process after its stop was seen and before it is
// taken: who started it learns of its end all the same.
func TestKilledInAStop(t *testing.T) {
	testenv.Need(t, testenv.Root)
	cmd := exec.Command("sleep", "1000")
	qt.Assert(t, qt.IsNil(cmd.Start()))
	pid := cmd.Process.Pid
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() //nolint:forbidigo // it is the tracer, and ends
		failed <- func() error {
			if err := errors.Join(unix.PtraceSeize(pid), unix.PtraceInterrupt(pid)); err != nil {
				return err
			}
			if code, _, err := wait(pid, unix.WSTOPPED|unix.WNOWAIT); err != nil || code != trapped {
				return fmt.Errorf("%d %w", code, err)
			}
			status, ok, err := takeStop(pid)
			if err != nil || !ok || !status.Stopped() || status.TrapCause() != unix.PTRACE_EVENT_STOP {
				return fmt.Errorf("a stop is %x %t: %w", status, ok, err)
			}
			if _, ok, err := takeStop(pid); err != nil || ok {
				return fmt.Errorf("a second stop: %w", err)
			}
			if err := errors.Join(unix.PtraceSyscall(pid, 0), unix.PtraceInterrupt(pid)); err != nil {
				return err
			}
			if code, _, err := wait(pid, unix.WSTOPPED|unix.WNOWAIT); err != nil || code != trapped {
				return fmt.Errorf("%d %w", code, err)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				return err
			}
			if _, _, err := wait(pid, unix.WEXITED|unix.WNOWAIT); err != nil {
				return err
			}
			if _, ok, err := takeStop(pid); err != nil || ok {
				return fmt.Errorf("a stop after the end: %w", err)
			}
			status, err = stopped(pid)
			if !status.Exited() {
				return fmt.Errorf("it has not ended, but %x", status)
			}
			return err
		}()
	}()
	qt.Assert(t, qt.IsNil(<-failed))
	qt.Assert(t, qt.ErrorMatches(cmd.Wait(), "signal: killed"))
}
