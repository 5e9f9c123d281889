package mqueue_test

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// open makes a message queue, and returns how to take its name away.
func open(t *testing.T) (fd int, name string, unlink func()) {
	t.Helper()
	name = "snapctl-mqueue-test-" + strconv.Itoa(os.Getpid())
	text := append([]byte(name), 0) // mq_open(2) takes it without the slash
	attr := [8]int64{1: 3, 2: 16}   // struct mq_attr: 3 messages of 16 bytes
	q, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&text[0])),
		unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600, uintptr(unsafe.Pointer(&attr)), 0, 0)
	if errno != 0 {
		t.Skipf("no message queues here: %v", errno)
	}
	linked := true
	unlink = func() {
		if linked {
			unix.Syscall(unix.SYS_MQ_UNLINK, uintptr(unsafe.Pointer(&text[0])), 0, 0)
		}
		linked = false
	}
	t.Cleanup(func() { unlink(); unix.Close(int(q)) })
	return int(q), name, unlink
}

func TestDescribe(t *testing.T) {
	fd, name, unlink := open(t)
	describe := func() *hold.Queue {
		link, err := os.Readlink(proc.FDPath(os.Getpid(), fd))
		qt.Assert(t, qt.IsNil(err))
		q, err := mqueue.Describe(fd, link)
		qt.Assert(t, qt.IsNil(err))
		q.Flags &^= unix.O_CLOEXEC // which mq_open(2) leaves there
		return q
	}
	q := describe()
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Fstat(fd, &st)))
	want := hold.Queue{Name: "/" + name, Inode: st.Ino, Mode: 0o600, UID: os.Getuid(), GID: os.Getgid(), Messages: 3, Size: 16, Flags: unix.O_RDWR}
	qt.Assert(t, qt.DeepEquals(*q, want))

	named, err := mqueue.Named(os.Getpid())
	qt.Assert(t, qt.IsNil(err))
	at := slices.IndexFunc(named, func(q hold.Queue) bool { return q.Inode == st.Ino })
	qt.Assert(t, qt.Equals(at >= 0, mqueue.Device(os.Getpid()) == st.Dev)) // if they are mounted where they belong

	unlink()
	want.Unlinked = true
	qt.Assert(t, qt.DeepEquals(*describe(), want))
}

func TestIs(t *testing.T) {
	fd, _, _ := open(t)
	qt.Assert(t, qt.IsTrue(mqueue.Is(os.Getpid(), fd)))
	f, err := os.Open(os.DevNull)
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	qt.Assert(t, qt.IsFalse(mqueue.Is(os.Getpid(), int(f.Fd()))))
}

// CRIU knows a queue by mount and inode. One that is to notify its process can't be held.
func TestExternal(t *testing.T) {
	fd, _, _ := open(t)
	var st unix.Statx_t
	qt.Assert(t, qt.IsNil(unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_MNT_ID, &st)))
	name, err := mqueue.External(os.Getpid(), fd)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(name, "file["+strconv.FormatUint(st.Mnt_id, 16)+":"+strconv.FormatUint(st.Ino, 16)+"]"))

	event := [8]uint64{1: 1 << 32} // struct sigevent: SIGEV_NONE
	_, _, errno := unix.Syscall(unix.SYS_MQ_NOTIFY, uintptr(fd), uintptr(unsafe.Pointer(&event)), 0)
	qt.Assert(t, qt.Equals(errno, 0))
	_, err = mqueue.External(os.Getpid(), fd)
	var refused *hold.UnsupportedError
	qt.Assert(t, qt.ErrorAs(err, &refused))
	qt.Assert(t, qt.Equals(refused.FD, fd))
	qt.Assert(t, qt.Equals(refused.What, mqueue.Notifying().What))
}
