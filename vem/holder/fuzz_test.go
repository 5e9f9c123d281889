package holder

import (
	"bytes"
	"context"
	"net"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

// FuzzSession sends packets with descriptors to a session: whatever they are, it
// answers or hangs up, keeps what was committed and nothing else.
//
// The input is packets separated by NUL; the first byte of each is how many
// descriptors go with it.
func FuzzSession(f *testing.F) {
	packets := func(p ...string) []byte {
		var b [][]byte
		for _, s := range p {
			b = append(b, []byte(s))
		}
		return bytes.Join(b, []byte{0})
	}
	f.Add(packets("\x02" + `{"version":1,"op":"put","app":"a","total":2,"items":[{"key":"k"},{"key":"l","meta":{"x":1}}]}`))
	f.Add(packets(
		"\x01"+`{"version":1,"op":"put","app":"a","total":2,"items":[{"key":"k"}],"more":true}`,
		"\x01"+`{"version":1,"op":"put","app":"a","items":[{"key":"l"}]}`,
		"\xff"+`{"version":1,"op":"get","app":"a"}`,
		"\xff"+`{"version":1,"op":"list"}`,
		"\xff"+`{"version":1,"op":"drop","app":"a"}`,
	))
	f.Add(packets("\x01"+`{"version":1,"op":"put","app":"a","total":2,"items":[{"key":"k"}],"more":true}`, "\x03"+`{"version":1,"op":"list"}`))
	f.Add(packets("\x01" + `{"version":2,"op":"put"}`))
	f.Add(packets("\x03" + `{"version":1,"op":"put","app":"a","total":1,"items":[{"key":"k"}]}`))
	f.Add(packets("\x01" + `{"version":1,"op":"put","app":"a","total":-5,"items":[{"key":"k"}]}`))
	f.Add(packets("\x00"+`{"version":"1"}`, "\x01"+`[`, "\x01"))
	f.Add(packets("\x00" + `{"version":1,"op":"get","app":"a","from":-1}`))
	null, err := os.Open(os.DevNull)
	if err != nil {
		f.Fatal(err)
	}
	defer null.Close()

	f.Fuzz(func(t *testing.T, input []byte) {
		v, err := newVault()
		qt.Assert(t, qt.IsNil(err))
		before := nulls(t)
		client, server := packetPair(t)
		done := make(chan error, 1)
		go func() { done <- (&session{vault: v, conn: server}).run(context.WithoutCancel(t.Context())) }()
		in := newReader(client)
		for packet := range bytes.SplitSeq(input, []byte{0}) {
			if len(packet) < 2 || len(packet) > maxPacket {
				continue
			}
			fds := make([]int, min(int(packet[0]), 8))
			for i := range fds {
				fds[i] = int(null.Fd())
			}
			if _, _, err := client.WriteMsgUnix(packet[1:], unix.UnixRights(fds...), nil); err != nil {
				break // it hung up
			}
			b, got, err := in.next()
			closeFDs(got)
			if err != nil || len(b) == 0 {
				break
			}
			resp, err := decodeResponse(b)
			qt.Assert(t, qt.IsTrue(err == nil || resp.Code != "" || err.Error() != ""))
		}
		qt.Assert(t, qt.IsNil(client.Close()))
		if err := <-done; err != nil { // it may complain of what it got
			qt.Assert(t, qt.Not(qt.Equals(err.Error(), "")))
		}
		kept := 0
		for _, k := range v.apps {
			kept += len(k.items)
		}
		qt.Assert(t, qt.Equals(v.staged, 0))
		qt.Assert(t, qt.Equals(nulls(t), before+kept))
		v.close()
		qt.Assert(t, qt.Equals(nulls(t), before))
	})
}

// nulls counts this process's descriptors of /dev/null.
func nulls(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	qt.Assert(t, qt.IsNil(err))
	n := 0
	for _, fd := range list {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to == os.DevNull {
			n++
		}
	}
	return n
}

func packetPair(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	qt.Assert(t, qt.IsNil(err))
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(f.Close()))
		unixConn, ok := conn.(*net.UnixConn)
		qt.Assert(t, qt.IsTrue(ok))
		conns[i] = unixConn
	}
	return conns[0], conns[1]
}
