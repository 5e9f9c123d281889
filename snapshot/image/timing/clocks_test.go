package timing

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/siginfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/timens"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/timer"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/timerfd"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
)

// timerDump is a dump of one process, 7, that has timers: a copy of a core image of a real
// one, with the timers that a test wants.
type timerDump struct {
	tb  testing.TB
	dir string
	img *image.Image
	of  *core.CoreEntry
}

func newTimerDump(tb testing.TB) *timerDump {
	tb.Helper()
	d := &timerDump{tb: tb, dir: tb.TempDir()}
	var err error
	d.img, err = image.Decode(imagetest.FS(tb, "plain")["core-1.img"].Data)
	qt.Assert(tb, qt.IsNil(err))
	d.of, err = image.Unmarshal[core.CoreEntry](d.img.Records[0].Message)
	qt.Assert(tb, qt.IsNil(err))
	d.of.Tc.Comm = new("cron")
	none := itimer(0, 0)
	d.of.Tc.Timers = &timer.TaskTimersEntry{Real: none, Virt: none, Prof: none}
	d.write("ids-7.img", image.TypeIDs, &core.TaskKobjIdsEntry{VmId: proto.Uint32(1), FilesId: proto.Uint32(2), FsId: proto.Uint32(3), SighandId: proto.Uint32(4)})
	d.write("files.img", image.TypeFiles)
	return d
}

func (d *timerDump) write(name string, t image.Type, messages ...proto.Message) {
	d.tb.Helper()
	img := image.Image{Type: t}
	for _, m := range messages {
		msg, err := image.Marshal(m)
		qt.Assert(d.tb, qt.IsNil(err))
		img.Records = append(img.Records, image.Record{Message: msg})
	}
	qt.Assert(d.tb, qt.IsNil(os.WriteFile(filepath.Join(d.dir, name), img.Encode(), 0o600)))
}

// save writes the core image, and timerfds that are open as descriptors 10, 11, ...
func (d *timerDump) save(fds ...*timerfd.TimerfdEntry) {
	d.tb.Helper()
	msg, err := image.Marshal(d.of)
	qt.Assert(d.tb, qt.IsNil(err))
	d.img.Records[0].Message = msg
	qt.Assert(d.tb, qt.IsNil(os.WriteFile(filepath.Join(d.dir, "core-7.img"), d.img.Encode(), 0o600)))
	var files, open []proto.Message
	for i, fd := range fds {
		id := uint32(100 + i)
		fd.Id, fd.Flags, fd.Fown = &id, proto.Uint32(2), &fown.FownEntry{Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: proto.Uint32(0)}
		files = append(files, &fdinfo.FileEntry{Type: fdinfo.FdTypes_TIMERFD.Enum(), Id: &id, Tfd: fd})
		open = append(open, &fdinfo.FdinfoEntry{Id: &id, Flags: proto.Uint32(0), Type: fdinfo.FdTypes_TIMERFD.Enum(), Fd: new(uint32(10 + i))})
	}
	d.write("files.img", image.TypeFiles, files...)
	d.write("fdinfo-2.img", image.TypeFdinfo, open...)
}

// passed is what a view of the dump has after its clocks were set.
func (d *timerDump) passed(c Clocks) (*core.CoreEntry, []*timerfd.TimerfdEntry, *image.View) {
	d.tb.Helper()
	v, err := image.NewView(d.tb.Context(), d.dir, d.tb.TempDir())
	qt.Assert(d.tb, qt.IsNil(err))
	qt.Assert(d.tb, qt.IsNil(SetClocks(v, c)))
	entries, err := image.ReadMessages[core.CoreEntry](v.Dir(), "core-7.img", image.TypeCore)
	qt.Assert(d.tb, qt.IsNil(err))
	files, err := image.ReadMessages[fdinfo.FileEntry](v.Dir(), "files.img", image.TypeFiles)
	qt.Assert(d.tb, qt.IsNil(err))
	var fds []*timerfd.TimerfdEntry
	for _, f := range files {
		fds = append(fds, f.GetTfd())
	}
	return entries[0], fds, v
}

func itimer(left, every time.Duration) *timer.ItimerEntry {
	sec, usec := parts(left, time.Microsecond)
	isec, iusec := parts(every, time.Microsecond)
	return &timer.ItimerEntry{Isec: isec, Iusec: iusec, Vsec: sec, Vusec: usec}
}

func posixTimer(id, clock, notify uint32, left, every time.Duration) *timer.PosixTimerEntry {
	sec, nsec := parts(left, 1)
	isec, insec := parts(every, 1)
	return &timer.PosixTimerEntry{
		ItId: &id, ClockId: &clock, SiSigno: proto.Uint32(10), ItSigevNotify: &notify, SivalPtr: proto.Uint64(0), Overrun: proto.Uint32(0),
		Isec: isec, Insec: insec, Vsec: sec, Vnsec: nsec,
	}
}

func timerFD(clock, flags uint32, ticks uint64, left, every time.Duration) *timerfd.TimerfdEntry {
	sec, nsec := parts(left, 1)
	isec, insec := parts(every, 1)
	return &timerfd.TimerfdEntry{Clockid: &clock, Ticks: &ticks, SettimeFlags: &flags, Vsec: sec, Vnsec: nsec, Isec: isec, Insec: insec}
}

func parts(d, unit time.Duration) (sec, fraction *uint64) {
	return new(uint64(d / time.Second)), new(uint64(d % time.Second / unit))
}

const absolute = unix.TFD_TIMER_ABSTIME

func TestTimers(t *testing.T) {
	cpu := ^uint32(5) // a clock of processor time, as the kernel numbers them
	pending := func(sig unix.Signal, code int32) *siginfo.SignalQueueEntry {
		info := make([]byte, 128)
		binary.NativeEndian.PutUint32(info, uint32(sig))
		binary.NativeEndian.PutUint32(info[8:], uint32(code))
		return &siginfo.SignalQueueEntry{Signals: []*siginfo.SiginfoEntry{{Siginfo: info}}}
	}
	for name, test := range map[string]struct {
		real   *timer.ItimerEntry
		posix  *timer.PosixTimerEntry
		queued *siginfo.SignalQueueEntry
		fd     *timerfd.TimerfdEntry
		want   []Timer
	}{
		"none":               {},
		"itimer":             {real: itimer(90*time.Second, 0), want: []Timer{{7, "cron", "ITIMER_REAL", 90 * time.Second, 0}}},
		"itimer that is due": {real: itimer(0, time.Minute), want: []Timer{{7, "cron", "ITIMER_REAL", time.Minute, time.Minute}}},
		"posix":              {posix: posixTimer(3, unix.CLOCK_MONOTONIC, 0, 1500*time.Millisecond, 0), want: []Timer{{7, "cron", "POSIX timer 3", 1500 * time.Millisecond, 0}}},
		"posix, to a thread": {posix: posixTimer(4, unix.CLOCK_BOOTTIME_ALARM, 4, time.Hour, 0), want: []Timer{{7, "cron", "POSIX timer 4", time.Hour, 0}}},
		"posix, tells none":  {posix: posixTimer(3, unix.CLOCK_MONOTONIC, 1, time.Second, 0)},
		"posix, disarmed":    {posix: posixTimer(3, unix.CLOCK_REALTIME, 0, 0, 0)},
		"processor time":     {posix: posixTimer(3, cpu, 0, time.Second, 0)},
		"process cpu clock":  {posix: posixTimer(3, unix.CLOCK_PROCESS_CPUTIME_ID, 0, time.Second, 0)},
		"timerfd":            {fd: timerFD(unix.CLOCK_REALTIME, absolute, 0, time.Hour, time.Minute), want: []Timer{{7, "", "timerfd in descriptor 10", time.Hour, time.Minute}}},
		"timerfd, unread":    {fd: timerFD(unix.CLOCK_MONOTONIC, 0, 1, 0, time.Minute), want: []Timer{{7, "", "timerfd in descriptor 10", 0, time.Minute}}},
		"timerfd, disarmed":  {fd: timerFD(unix.CLOCK_MONOTONIC, absolute, 0, 0, 0)},
		"sent already":       {queued: pending(unix.SIGALRM, 0x80), want: []Timer{{7, "cron", "timer of SIGALRM, which is pending", 0, 0}}},
		"another signal":     {queued: pending(unix.SIGALRM, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTimerDump(t)
			if test.real != nil {
				d.of.Tc.Timers.Real = test.real
			}
			if test.posix != nil {
				d.of.Tc.Timers.Posix = []*timer.PosixTimerEntry{test.posix}
			}
			d.of.Tc.SignalsS = test.queued
			if test.fd != nil {
				d.save(test.fd)
			} else {
				d.save()
			}
			got, err := Timers(d.dir)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.DeepEquals(got, test.want))
		})
	}
}

// TestSetClocks has time pass for saved timers and clocks.
func TestSetClocks(t *testing.T) {
	saved := time.Date(2026, 1, 2, 3, 4, 5, 250_000_000, time.UTC)
	d := newTimerDump(t)
	d.of.Tc.Timers.Real, d.of.Tc.Timers.Prof = itimer(10*time.Second, 3*time.Second), itimer(10*time.Second, 0)
	d.of.Tc.Timers.Posix = []*timer.PosixTimerEntry{
		posixTimer(1, unix.CLOCK_REALTIME, 0, 2*time.Second, 0),
		posixTimer(2, unix.CLOCK_PROCESS_CPUTIME_ID, 0, 2*time.Second, 0),
		posixTimer(3, unix.CLOCK_MONOTONIC, 0, 0, 0),
		posixTimer(4, unix.CLOCK_MONOTONIC, 0, 2*time.Second, 300*time.Millisecond),
		posixTimer(5, unix.CLOCK_MONOTONIC, 0, 200*time.Millisecond, 0),
	}
	d.save(timerFD(unix.CLOCK_BOOTTIME, 0, 0, 20*time.Second, 0))
	d.write("timens-9.img", image.TypeTimens, &timens.TimensEntry{
		Monotonic: &timens.Timespec{TvSec: proto.Uint64(100), TvNsec: proto.Uint64(900_000_000)},
		Boottime:  &timens.Timespec{TvSec: proto.Uint64(200), TvNsec: proto.Uint64(0)},
	})
	clocks := func(v *image.View) []uint64 {
		entries, err := image.ReadMessages[timens.TimensEntry](v.Dir(), "timens-9.img", image.TypeTimens)
		qt.Assert(t, qt.IsNil(err))
		m, b := entries[0].GetMonotonic(), entries[0].GetBoottime()
		return []uint64{m.GetTvSec(), m.GetTvNsec(), b.GetTvSec(), b.GetTvNsec()}
	}
	now := saved.Add(4500 * time.Millisecond)
	of, fds, v := d.passed(Clocks{SavedAt: saved, Now: now, GoOn: true})
	qt.Assert(t, qt.DeepEquals(clocks(v), []uint64{105, 400_000_000, 204, 500_000_000}))
	same := func(got, want proto.Message) {
		t.Helper()
		qt.Check(t, qt.IsTrue(proto.Equal(got, want)), qt.Commentf("got %v, want %v", got, want))
	}
	same(of.Tc.Timers.Real, itimer(5500*time.Millisecond, 3*time.Second))
	same(of.Tc.Timers.Prof, itimer(10*time.Second, 0))
	same(of.Tc.Timers.Posix[0], posixTimer(1, unix.CLOCK_REALTIME, 0, time.Second, 0)) // it has expired meanwhile
	same(of.Tc.Timers.Posix[1], posixTimer(2, unix.CLOCK_PROCESS_CPUTIME_ID, 0, 2*time.Second, 0))
	same(of.Tc.Timers.Posix[2], posixTimer(3, unix.CLOCK_MONOTONIC, 0, 0, 0))
	same(of.Tc.Timers.Posix[3], posixTimer(4, unix.CLOCK_MONOTONIC, 0, 300*time.Millisecond, 300*time.Millisecond))
	same(of.Tc.Timers.Posix[4], posixTimer(5, unix.CLOCK_MONOTONIC, 0, 200*time.Millisecond, 0))
	qt.Check(t, qt.Equals(fds[0].GetVsec(), 15))
	qt.Check(t, qt.Equals(fds[0].GetVnsec(), 500_000_000))

	// The clock of the host was set back: nothing has passed.
	of, fds, v = d.passed(Clocks{SavedAt: saved, Now: saved.Add(-time.Hour), GoOn: true})
	qt.Assert(t, qt.DeepEquals(clocks(v), []uint64{100, 900_000_000, 200, 0}))
	same(of, d.of)
	qt.Check(t, qt.Equals(fds[0].GetVsec(), 20))

	// Clocks stand still: nothing changes.
	of, fds, v = d.passed(Clocks{SavedAt: saved, Now: now})
	qt.Assert(t, qt.DeepEquals(clocks(v), []uint64{100, 900_000_000, 200, 0}))
	same(of, d.of)
	qt.Check(t, qt.Equals(fds[0].GetVsec(), 20))
}

// TestSetTimerFDs has timerfds be as they were, of which CRIU makes something else.
func TestSetTimerFDs(t *testing.T) {
	saved := time.Date(2026, 1, 2, 3, 4, 5, 900_000_000, time.UTC)
	now := saved.Add(2500 * time.Millisecond) // x:08.4
	for name, test := range map[string]struct {
		goOn      bool
		from      *timerfd.TimerfdEntry
		left      time.Duration // as CRIU is told
		flags     uint32
		forgotten bool // when it was saved
	}{
		"relative":                {from: timerFD(unix.CLOCK_MONOTONIC, 0, 0, 7*time.Second, 0), left: 7 * time.Second},
		"relative, calendar":      {from: timerFD(unix.CLOCK_REALTIME, 0, 0, 7*time.Second, 0), left: 7 * time.Second},
		"expired, repeats":        {from: timerFD(unix.CLOCK_MONOTONIC, 0, 3, 0, 7*time.Second), left: 7 * time.Second},
		"expired, once":           {from: timerFD(unix.CLOCK_MONOTONIC, 0, 1, 0, 0)},
		"absolute":                {from: timerFD(unix.CLOCK_MONOTONIC, absolute, 0, 7*time.Second, 0), left: 7 * time.Second},
		"absolute, goes on":       {goOn: true, from: timerFD(unix.CLOCK_MONOTONIC, absolute, 0, 7*time.Second, 0), left: 4500 * time.Millisecond},
		"absolute, disarmed":      {from: timerFD(unix.CLOCK_MONOTONIC, absolute, 0, 0, 0)},
		"calendar":                {from: timerFD(unix.CLOCK_REALTIME, absolute, 0, 7*time.Second, 0), left: 4900 * time.Millisecond, flags: absolute}, // at x:12.9, and CRIU adds x:08
		"calendar, kept flag":     {from: timerFD(unix.CLOCK_REALTIME, 3, 0, 7*time.Second, 0), left: 4900 * time.Millisecond, flags: 3},
		"calendar, passed":        {from: timerFD(unix.CLOCK_REALTIME, absolute, 0, time.Second, 0), left: 400*time.Millisecond + 1, flags: absolute},
		"calendar, disarmed":      {from: timerFD(unix.CLOCK_REALTIME, absolute, 0, 0, 0)},
		"calendar, saved earlier": {forgotten: true, from: timerFD(unix.CLOCK_REALTIME, absolute, 0, 7*time.Second, 0), left: 7400 * time.Millisecond, flags: absolute},
	} {
		t.Run(name, func(t *testing.T) {
			d := newTimerDump(t)
			d.save(test.from)
			c := Clocks{SavedAt: saved, Now: now, GoOn: test.goOn}
			if test.forgotten {
				c.SavedAt = time.Time{}
			}
			_, fds, _ := d.passed(c)
			got := fds[0]
			left, _ := timerfdSpec.of(got.GetVsec(), got.GetVnsec(), 0, 0)
			qt.Check(t, qt.Equals(left, test.left))
			qt.Check(t, qt.Equals(got.GetSettimeFlags(), test.flags))
			qt.Check(t, qt.Equals(got.GetTicks(), test.from.GetTicks()))
			qt.Check(t, qt.Equals(got.GetIsec(), test.from.GetIsec()))
		})
	}
}
