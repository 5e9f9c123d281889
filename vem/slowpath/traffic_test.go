package slowpath_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/pause"
)

// sink counts the numbered datagrams that come to a port of the far machine.
type sink struct {
	conn net.PacketConn
	done chan struct{}

	mu   sync.Mutex
	got  map[string][]uint32 // by the address that they came to, or the sender's
	size int
}

func (s *site) listen(network, at string) *sink {
	s.tb.Helper()
	k := &sink{done: make(chan struct{}), got: map[string][]uint32{}}
	qt.Assert(s.tb, qt.IsNil(s.far.Do(func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return forceBuffer(c) }}
		k.conn, err = lc.ListenPacket(s.tb.Context(), network, at)
		return err
	})))
	s.tb.Cleanup(func() { k.conn.Close(); <-k.done })
	go func() {
		defer close(k.done)
		raw := make([]byte, 1<<16)
		for {
			n, from, err := k.conn.ReadFrom(raw)
			if err != nil {
				return
			}
			k.mu.Lock()
			k.got[from.String()] = append(k.got[from.String()], binary.BigEndian.Uint32(raw))
			k.size += n
			k.mu.Unlock()
		}
	}()
	return k
}

// from returns the numbers that came from an address so far.
func (k *sink) from(a net.Addr) []uint32 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]uint32(nil), k.got[a.String()]...)
}

// send sends numbered datagrams of a size. It waits now and then until the fabric has forwarded
// them: on a busy machine the kernel drops what comes faster than it gets to it
// (net.core.netdev_max_backlog, 1000).
func (s *site) send(c net.Conn, first, n, size int) {
	s.tb.Helper()
	const part = 250
	raw := bytes.Repeat([]byte{0xa5}, size)
	forwarded := func() int { return statistic(s.tb, s.fabric.Namespace(), "Ip", "ForwDatagrams") }
	before := forwarded()
	for i := range n {
		if i%part == 0 {
			eventually(s.tb, "they are forwarded", func() bool { return forwarded() >= before+i })
		}
		binary.BigEndian.PutUint32(raw, uint32(first+i))
		_, err := c.Write(raw)
		qt.Assert(s.tb, qt.IsNil(err))
	}
}

// numbers are those from 0 to n-1.
func numbers(n int) []uint32 {
	list := make([]uint32, n)
	for i := range list {
		list[i] = uint32(i)
	}
	return list
}

// dial connects from the app. It does not wait longer than it may.
func (s *site) dial(network, to string) (net.Conn, error) {
	var c net.Conn
	err := s.app.Do(func() (err error) {
		d := net.Dialer{Timeout: patience}
		c, err = d.DialContext(s.tb.Context(), network, to)
		return err
	})
	if err == nil {
		s.tb.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (s *site) mustDial(network, to string) net.Conn {
	s.tb.Helper()
	c, err := s.dial(network, to)
	qt.Assert(s.tb, qt.IsNil(err))
	return c
}

// serve accepts TCP connections at all addresses of the far machine.
func (s *site) serve(port string) <-chan net.Conn {
	s.tb.Helper()
	var l net.Listener
	qt.Assert(s.tb, qt.IsNil(s.far.Do(func() (err error) {
		var lc net.ListenConfig
		l, err = lc.Listen(s.tb.Context(), "tcp", ":"+port)
		return err
	})))
	accepted := make(chan net.Conn, 1024)
	done := make(chan struct{})
	s.tb.Cleanup(func() {
		l.Close()
		<-done
		for c := range accepted {
			c.Close()
		}
	})
	go func() {
		defer close(done)
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	return accepted
}

// statistic reads a counter of a namespace, such as TcpExt TCPSynRetrans.
func statistic(tb testing.TB, ns *netns.NS, group, name string) (value int) {
	tb.Helper()
	qt.Assert(tb, qt.IsNil(ns.Do(func() error {
		for _, file := range []string{"netstat", "snmp"} {
			raw, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			lines := strings.Split(string(raw), "\n")
			for i := 0; i+1 < len(lines); i += 2 {
				names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
				for k := range names {
					if names[0] == group+":" && names[k] == name {
						value, err = strconv.Atoi(values[k])
						return err
					}
				}
			}
		}
		return fmt.Errorf("no counter %s %s", group, name)
	})))
	return value
}

// eventually asks again and again.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) || !pause.For(tb.Context(), time.Millisecond, nil) {
			tb.Fatalf("waited in vain: %s", what)
		}
	}
}

// forceBuffer gives a socket room for all that a test sends.
func forceBuffer(c syscall.RawConn) (err error) {
	cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
	return errors.Join(err, cerr)
}
