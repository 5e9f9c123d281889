package timing

import (
	"errors"
	"fmt"
	"io/fs"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// RestartPolls lets threads that wait in poll(2) without a time limit go on waiting. To CRIU
// each call that the kernel would continue by restart_syscall(2) is interrupted, and fails
// with EINTR (criu's compel/arch/x86/src/lib/infect.c, compel_get_task_regs): how long is
// left of its time is known to the kernel alone. Without a limit nothing is lost if the call
// is made once more. A program that no signal's handler has interrupted need not expect
// EINTR of poll, and script of util-linux, for one, ends (lib/pty-session.c,
// ul_pty_proxy_master).
//
// Where a signal waits the call stays interrupted, as the signal's handler would have it.
func RestartPolls(v *image.View) error {
	processes, err := v.Threads()
	if err != nil {
		return fmt.Errorf("restart polls: %w", err)
	}
	for _, threads := range processes {
		for i, tid := range threads {
			img, entry, err := readCore(v, tid)
			if errors.Is(err, fs.ErrNotExist) {
				continue // of one that has ended there may be none
			}
			if err != nil {
				return fmt.Errorf("restart polls: %w", err)
			}
			if i == 0 && len(entry.GetTc().GetSignalsS().GetSignals()) > 0 {
				break
			}
			if !restartPoll(entry) {
				continue
			}
			if img.Records[0].Message, err = proto.Marshal(entry); err != nil {
				return fmt.Errorf("restart polls: encode thread %d: %w", tid, err)
			}
			if err := v.Replace(image.CoreName(tid), img.Encode()); err != nil {
				return fmt.Errorf("restart polls: %w", err)
			}
		}
	}
	return nil
}

// readCore reads the image of a thread.
func readCore(v *image.View, tid uint32) (*image.Image, *core.CoreEntry, error) {
	img, err := v.Decode(image.CoreName(tid), image.TypeCore)
	if err != nil {
		return nil, nil, fmt.Errorf("read thread %d: %w", tid, err)
	}
	if len(img.Records) == 0 {
		return nil, nil, fmt.Errorf("read thread %d: %w: it is empty", tid, wire.ErrMalformed)
	}
	entry, err := image.Unmarshal[core.CoreEntry](img.Records[0].Message)
	if err != nil {
		return nil, nil, fmt.Errorf("read thread %d: %w", tid, err)
	}
	return img, entry, nil
}

// restartPoll edits a thread that waits in such a call, and tells whether it does.
func restartPoll(e *core.CoreEntry) bool {
	const syscallSize = 2 // of the instruction, on amd64
	regs := e.GetThreadInfo().GetGpregs()
	switch {
	case e.GetMtype() != core.CoreEntry_X86_64, regs.GetOrigAx() != unix.SYS_POLL, int64(regs.GetAx()) != -int64(unix.EINTR), int32(regs.GetDx()) >= 0:
		return false
	case len(e.GetThreadCore().GetSignalsP().GetSignals()) > 0:
		return false
	}
	regs.Ax, regs.Ip = new(regs.GetOrigAx()), new(regs.GetIp()-syscallSize)
	return true
}
