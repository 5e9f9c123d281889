package restore

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot"
)

// Each saved stream gets a descriptor of its own of what takes its place, also if that is
// one file, and none that waits if the saved one did not.
func TestOpenStreams(t *testing.T) {
	dir := t.TempDir()
	qt.Assert(t, qt.IsNil(unix.Mkfifo(filepath.Join(dir, "in"), 0o600)))
	fd, err := unix.Open(filepath.Join(dir, "in"), unix.O_RDWR|unix.O_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	in := os.NewFile(uintptr(fd), "in")
	defer in.Close()
	out, err := os.Create(filepath.Join(dir, "out"))
	qt.Assert(t, qt.IsNil(err))
	defer out.Close()
	p, err := NewPlan(&snapshot.Manifest{External: []snapshot.External{
		{Kind: snapshot.ExternalFIFO, Key: "file[1:2]", FD: 0, Open: &snapshot.OpenFile{Flags: unix.O_NONBLOCK}},
		{Kind: snapshot.ExternalFIFO, Key: "file[1:3]", FD: 1, Open: &snapshot.OpenFile{}},
		{Kind: snapshot.ExternalLog, Key: "file[1:4]", FD: 2},
		{Kind: snapshot.ExternalEventfd, Key: "eventfd[1:7]", FD: 7},
	}}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(p.openStreams(Place{Stdio: [3]*os.File{in, out, out}})))
	qt.Check(t, qt.DeepEquals(slices.Sorted(maps.Keys(p.streams)), []string{"ile[1:2]", "ile[1:3]", "ile[1:4]"}))
	numbers := make(map[uintptr]bool)
	for key, want := range map[string]*os.File{"ile[1:2]": in, "ile[1:3]": out, "ile[1:4]": out} {
		have := p.streams[key]
		a, err := want.Stat()
		qt.Assert(t, qt.IsNil(err))
		b, err := have.Stat()
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.IsTrue(os.SameFile(a, b)))
		numbers[have.Fd()] = true
	}
	qt.Check(t, qt.HasLen(numbers, 3))
	qt.Check(t, qt.IsNil(p.streams.close()))
	qt.Check(t, qt.HasLen(p.streams, 0))
}

// A log that an older snapctl has saved is standard output and error.
func TestStreamOfOlderLog(t *testing.T) {
	at := Place{Stdio: [3]*os.File{1: os.Stdout, 2: os.Stderr}}
	qt.Check(t, qt.Equals(at.stream(snapshot.External{Kind: snapshot.ExternalLog}), os.Stdout))
	qt.Check(t, qt.Equals(at.stream(snapshot.External{Kind: snapshot.ExternalLog, FD: 2}), os.Stderr))
	qt.Check(t, qt.IsNil(at.stream(snapshot.External{Kind: snapshot.ExternalFIFO})))
	qt.Check(t, qt.IsNil(at.stream(snapshot.External{Kind: snapshot.ExternalEventfd, FD: 1})))
}
