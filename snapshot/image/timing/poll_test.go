package timing

import (
	"os"
	"path/filepath"
	"testing"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/siginfo"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
)

func TestRestartPolls(t *testing.T) {
	img, err := image.Decode(imagetest.FS(t, "plain")["core-1.img"].Data)
	qt.Assert(t, qt.IsNil(err))
	const (
		forever = uint64(1<<32 - 1) // -1 of 32 bits
		eintr   = ^uint64(unix.EINTR) + 1
		ip      = uint64(0x7f0000001000)
	)
	waits := &siginfo.SignalQueueEntry{Signals: []*siginfo.SiginfoEntry{{Siginfo: make([]byte, 128)}}}
	for name, c := range map[string]struct {
		call, result, limit uint64
		own, shared         *siginfo.SignalQueueEntry
		restarted           bool
	}{
		"without a limit":       {unix.SYS_POLL, eintr, forever, nil, nil, true},
		"with a limit":          {unix.SYS_POLL, eintr, 5000, nil, nil, false},
		"that has ended":        {unix.SYS_POLL, 1, forever, nil, nil, false},
		"another call":          {unix.SYS_NANOSLEEP, eintr, forever, nil, nil, false},
		"signal of the thread":  {unix.SYS_POLL, eintr, forever, waits, nil, false},
		"signal of the process": {unix.SYS_POLL, eintr, forever, nil, waits, false},
	} {
		t.Run(name, func(t *testing.T) {
			entry, err := image.Unmarshal[core.CoreEntry](img.Records[0].Message)
			qt.Assert(t, qt.IsNil(err))
			regs := entry.GetThreadInfo().GetGpregs()
			regs.OrigAx, regs.Ax, regs.Dx, regs.Ip = new(c.call), new(c.result), new(c.limit), new(ip)
			entry.ThreadCore.SignalsP, entry.Tc.SignalsS = c.own, c.shared
			msg, err := image.Marshal(entry)
			qt.Assert(t, qt.IsNil(err))
			tree, err := image.Marshal(&pstree.PstreeEntry{Pid: new(uint32(7)), Ppid: new(uint32), Pgid: new(uint32(7)), Sid: new(uint32(7)), Threads: []uint32{7}})
			qt.Assert(t, qt.IsNil(err))
			dir := t.TempDir()
			for name, one := range map[string]image.Image{
				"core-7.img": {Head: img.Head, Type: image.TypeCore, Records: []image.Record{{Message: msg}}},
				"pstree.img": {Type: image.TypePstree, Records: []image.Record{{Message: tree}}},
			} {
				qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(dir, name), one.Encode(), 0o600)))
			}
			v, err := image.NewView(t.Context(), dir, t.TempDir())
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(RestartPolls(v)))
			_, got, err := readCore(v, 7)
			qt.Assert(t, qt.IsNil(err))
			wantIP, wantAx := ip, c.result
			if c.restarted {
				wantIP, wantAx = ip-2, c.call
			}
			regs = got.GetThreadInfo().GetGpregs()
			qt.Check(t, qt.DeepEquals([]uint64{regs.GetIp(), regs.GetAx(), regs.GetDx()}, []uint64{wantIP, wantAx, c.limit}))
		})
	}
}
