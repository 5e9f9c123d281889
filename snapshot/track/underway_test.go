package track_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// slow reads from a file whose file system is its descriptor 3, right into a page. It says where that
// is, begins to read when it is told, and says then how much it was.
func slow() {
	must(unix.Mount("slow", os.Args[3], "fuse", 0, "fd=3,rootmode=100444,user_id=0,group_id=0"))
	fd, err := unix.Open(os.Args[3], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	must(err)
	must(unix.Unmount(os.Args[3], unix.MNT_DETACH))
	b, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(err)
	b[0] = 'o'
	say(address(b))
	n, err := unix.Read(fd, b)
	must(err)
	say(n)
}

// fileSystem is one of a single file, which is read from by [unix.Read] past all caches.
type fileSystem struct {
	t      *testing.T
	device *os.File
}

// request is what the kernel asks (include/uapi/linux/fuse.h, struct fuse_in_header).
type request struct {
	operation uint32
	id        uint64
}

// serve answers requests but those to read, which it hands on, until the file system is no more.
func (f fileSystem) serve(reads chan<- request) {
	const (
		getattr, open, initialize, read, interrupt = 3, 14, 26, 15, 36
		directIO                                   = 1
	)
	ne := binary.NativeEndian
	b := make([]byte, 1<<18)
	for {
		_, err := unix.Read(int(f.device.Fd()), b)
		if (err == unix.EINTR || err == unix.EPERM) && f.t.Context().Err() == nil { // EPERM: it is not mounted yet
			<-time.After(time.Millisecond)
			continue
		}
		if err != nil { // ENODEV
			close(reads)
			return
		}
		r := request{ne.Uint32(b[4:]), ne.Uint64(b[8:])}
		switch r.operation {
		case initialize:
			out := make([]byte, 64)
			ne.PutUint32(out, 7)      // major
			ne.PutUint32(out[4:], 31) // minor
			ne.PutUint32(out[20:], 1<<16)
			f.answer(r, 0, out)
		case getattr:
			out := make([]byte, 104)
			ne.PutUint64(out[16:], 1)           // inode
			ne.PutUint64(out[24:], pageSize)    // size
			ne.PutUint32(out[16+60:], 0o100444) // mode
			ne.PutUint32(out[16+64:], 1)        // links
			f.answer(r, 0, out)
		case open:
			out := make([]byte, 16)
			ne.PutUint32(out[8:], directIO)
			f.answer(r, 0, out)
		case read:
			reads <- r
		case interrupt:
		default:
			f.answer(r, unix.ENOSYS, nil)
		}
	}
}

func (f fileSystem) answer(r request, errno unix.Errno, out []byte) {
	b := make([]byte, 16, 16+len(out))
	binary.NativeEndian.PutUint32(b, uint32(16+len(out)))
	binary.NativeEndian.PutUint32(b[4:], uint32(-int32(errno)))
	binary.NativeEndian.PutUint64(b[8:], r.id)
	_, err := unix.Write(int(f.device.Fd()), append(b, out...))
	qt.Check(f.t, qt.IsNil(err))
}

// A read that writes right into memory is under way when the memory is collected. The kernel does
// not see when it ends: the page is clean. A copy that is made after the thread has been stopped has all of it.
func TestUnderWay(t *testing.T) {
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { device.Close() })
	file := filepath.Join(t.TempDir(), "file")
	qt.Assert(t, qt.IsNil(os.WriteFile(file, nil, 0o600)))
	files := fileSystem{t, device}
	reads := make(chan request)
	go files.serve(reads)
	t.Cleanup(func() {
		for range reads { // until the program has ended
		}
	})
	p, at := beginWith(t, device, "slow", file)
	page := number(t, at)
	m := newMirror(t, p)
	tr := start(t, p)
	_, err = fmt.Fprintln(p.in, "read")
	qt.Assert(t, qt.IsNil(err))
	read := <-reads

	runs, err := tr.Collect(t.Context(), p.pid)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(within(runs, page, 1), 1))
	early := m.number(page)
	stopped := make(chan func())
	go func() { stopped <- p.stop() }()
	files.answer(read, 0, []byte("new data"))
	goOn := <-stopped
	late := m.number(page)
	goOn()
	p.answer()

	defer p.stop()()
	clean, _, err := tr.Scan(t.Context(), p.pid)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(within(clean, page, 1), 1))
	qt.Check(t, qt.Equals(m.number(page), late))
	qt.Check(t, qt.Not(qt.Equals(m.number(page), early)))
}
