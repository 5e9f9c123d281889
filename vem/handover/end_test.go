package handover_test

import (
	"errors"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// end is a socket. What goes over a connection is numbered.
type end struct {
	t           testing.TB
	fd          int
	wrote, read int // bytes
	key         byte
}

func (e *end) close() {
	if e.fd >= 0 {
		_ = unix.Close(e.fd)
	}
	e.fd = -1
}

func (e *end) accept() *end {
	e.t.Helper()
	e.wait(unix.POLLIN)
	fd, _, err := unix.Accept4(e.fd, unix.SOCK_CLOEXEC)
	qt.Assert(e.t, qt.IsNil(err))
	a := &end{t: e.t, fd: fd, key: 0x5a}
	e.t.Cleanup(a.close)
	return a
}

func (e *end) info() *unix.TCPInfo {
	e.t.Helper()
	info, err := unix.GetsockoptTCPInfo(e.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	qt.Assert(e.t, qt.IsNil(err))
	return info
}

func (e *end) state() sockdiag.State { return sockdiag.State(e.info().State) }

// numbered are n bytes of a stream from a place on.
func numbered(key byte, from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		at := from + i
		b[i] = key ^ byte(at) ^ byte(at>>8)*7 ^ byte(at>>16)*11
	}
	return b
}

func (e *end) write(n int) {
	e.t.Helper()
	for n > 0 {
		done, err := unix.Write(e.fd, numbered(e.key, e.wrote, min(n, 1<<16)))
		qt.Assert(e.t, qt.IsNil(err))
		e.wrote, n = e.wrote+done, n-done
	}
}

// fill writes until nothing more fits.
func (e *end) fill() {
	e.t.Helper()
	for {
		n, err := unix.SendmsgN(e.fd, numbered(e.key, e.wrote, 1<<16), nil, nil, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		qt.Assert(e.t, qt.IsNil(err))
		e.wrote += n
	}
}

// wait waits for an event.
func (e *end) wait(events int16) {
	e.t.Helper()
	p := []unix.PollFd{{Fd: int32(e.fd), Events: events}}
	for deadline := time.Now().Add(10 * time.Second); ; {
		n, err := unix.Poll(p, 200)
		if n == 1 {
			return
		}
		qt.Assert(e.t, qt.IsTrue(err == nil || errors.Is(err, unix.EINTR)))
		qt.Assert(e.t, qt.IsTrue(time.Now().Before(deadline)), qt.Commentf("nothing happens after %d bytes, in state %v", e.read, e.state()))
	}
}

// receive reads all that the other end has written, and compares each number.
func (e *end) receive(from *end) {
	e.t.Helper()
	b := make([]byte, 1<<16)
	for e.read < from.wrote {
		e.wait(unix.POLLIN)
		n, err := unix.Read(e.fd, b[:min(len(b), from.wrote-e.read)])
		qt.Assert(e.t, qt.IsNil(err))
		qt.Assert(e.t, qt.IsTrue(n > 0), qt.Commentf("the stream ends at %d of %d", e.read, from.wrote))
		qt.Assert(e.t, qt.IsTrue(string(b[:n]) == string(numbered(from.key, e.read, n))), qt.Commentf("wrong bytes between %d and %d", e.read, e.read+n))
		e.read += n
	}
}

// ended reads the end of the stream.
func (e *end) ended() {
	e.t.Helper()
	e.wait(unix.POLLIN)
	n, err := unix.Read(e.fd, make([]byte, 1))
	qt.Assert(e.t, qt.IsNil(err))
	qt.Assert(e.t, qt.Equals(n, 0))
}

func (e *end) finish() {
	e.t.Helper()
	qt.Assert(e.t, qt.IsNil(unix.Shutdown(e.fd, unix.SHUT_WR)))
}

// reaches waits until the kernel has got to a state.
func (e *end) reaches(want sockdiag.State) {
	e.t.Helper()
	deadline, tick := time.NewTimer(10*time.Second), time.NewTicker(time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for e.state() != want {
		select {
		case <-tick.C:
		case <-deadline.C:
			e.t.Fatalf("it is %v, and not %v", e.state(), want)
		}
	}
}

// talk has both ends read everything and send more, so many times.
func talk(a, b *end, times int) {
	a.t.Helper()
	a.receive(b)
	b.receive(a)
	for range times {
		a.write(5000)
		b.write(4000)
		b.receive(a)
		a.receive(b)
	}
}

// over ends both streams.
func over(a, b *end) {
	a.t.Helper()
	talk(a, b, 3)
	a.finish()
	b.ended()
	b.write(3000)
	a.receive(b)
	b.finish()
	a.ended()
}

// pour has one end send much, which the other one reads.
func pour(from, to *end) {
	from.t.Helper()
	for range 40 {
		from.write(30000)
		to.receive(from)
	}
}
