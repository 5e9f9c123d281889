package handover

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover/plain"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Refused is a socket or another object that does not move.
type Refused struct {
	Inode  uint64 `json:"inode,omitempty"` // by which the app's images know it; 0 if it is no socket
	What   string `json:"what"`            // names it for people, like "tcp 10.77.0.7:80 <- 10.77.0.1:3000"
	Reason string `json:"reason"`
	// Unaccepted tells that connections wait to be accepted: see [ErrUnaccepted].
	Unaccepted bool `json:"unaccepted,omitempty"`
}

// connection is a connection of the set: one end, or both.
type connection struct {
	sockets []*hold.Socket
	looked  *tcprepair.Looked
	inside  bool // there is no other end elsewhere
}

// other is a socket that is no connection.
type other struct {
	socket *hold.Socket
	state  *plain.Socket
	own    []plain.Own // what reading its queue changes
}

// found is what there is to move.
type found struct {
	connections []*connection
	others      []*other
	refused     []Refused
	window      uint32
}

// find looks at all sockets of a set. It changes nothing.
func find(ctx context.Context, ns *netns.NS, set *hold.Set, own []netip.Addr) (*found, error) {
	table, err := newTable(ns)
	if err != nil {
		return nil, err
	}
	f := &found{}
	reader := plain.NewReader(ns)
	seen := make(map[uint64]bool)
	for i := range set.Sockets {
		s := &set.Sockets[i]
		if seen[s.Inode] {
			continue
		}
		var err error
		switch s.Kind { //nolint:exhaustive // no other kind is held
		case hold.TCP:
			if !table.connected(s) {
				err = f.addOther(reader, s, table)
				break
			}
			c := table.connection(s, set, own)
			for _, one := range c.sockets {
				seen[one.Inode] = true
			}
			f.connections = append(f.connections, c)
		case hold.Unix, hold.UnixListen:
			err = f.unix(s)
		default:
			err = f.addOther(reader, s, table)
		}
		if err != nil {
			return nil, err
		}
	}
	f.objects(set)
	return f, f.look(ctx, table)
}

// addOther looks at a socket that is no connection.
func (f *found) addOther(reader *plain.Reader, s *hold.Socket, t *table) error {
	look := reader.Look
	d := t.byInode[uint32(s.Inode)]
	if s.Kind == hold.TCP && d.State == sockdiag.SynSent {
		look = func(fd int) (*plain.Socket, error) { return reader.LookConnecting(fd, d.Remote) }
	}
	state, err := look(int(s.File.Fd()))
	if f.refuse(err, s) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", what(s), err)
	}
	if s.Kind == hold.TCP && !state.Connecting {
		if reason, err := overReason(s); err != nil || reason != "" {
			f.refuseSocket(s, reason)
			return err
		}
	}
	state.Inode = s.ImageInode()
	if s.Receive != nil {
		state.Settings.ReceiveBuffer, state.Settings.BufferLock = s.Receive.Bytes, s.Receive.Lock
	}
	o := &other{socket: s, state: state}
	if state.Queues() {
		if o.own, err = state.Options(int(s.File.Fd())); err != nil {
			return err
		}
	}
	f.others = append(f.others, o)
	return nil
}

// overReason is why a TCP socket that is not connected any more can't move; "" if it can.
func overReason(s *hold.Socket) (string, error) {
	p := []unix.PollFd{{Fd: int32(s.File.Fd()), Events: unix.POLLIN | unix.POLLERR}}
	if err := proc.Poll(p); err != nil {
		return "", err
	}
	unread, err := unix.IoctlGetInt(int(s.File.Fd()), unix.SIOCINQ)
	switch {
	case p[0].Revents&unix.POLLERR != 0:
		return "it has an error that the program has not read", nil
	case err == nil && unread > 0:
		return fmt.Sprintf("it is over, and has %d bytes that were not read", unread), nil
	}
	return "", nil
}

// unix finds what does not move of a unix socket: CRIU makes all others anew.
func (f *found) unix(s *hold.Socket) error {
	p := []unix.PollFd{{Fd: int32(s.File.Fd()), Events: unix.POLLIN}}
	if err := proc.Poll(p); err != nil {
		return err
	}
	switch ready := p[0].Revents&unix.POLLIN != 0; {
	case s.External():
		f.refuseSocket(s, "its other end is a program of this host")
	case s.Kind == hold.UnixListen && ready:
		f.refuseSocket(s, "clients of this host wait to be accepted")
	case ready:
		f.refuseSocket(s, "messages wait in it")
	}
	return nil
}

// objects finds what can't be made again of what is no socket.
func (f *found) objects(set *hold.Set) {
	if refused, ok := errors.AsType[*hold.UnsupportedError](set.Copyable()); ok {
		f.refused = append(f.refused, Refused{What: fmt.Sprintf("process %d, descriptor %d: %s", refused.PID, refused.FD, refused.What), Reason: refused.Remedy})
	}
}

// look looks at all connections, on all processors.
func (f *found) look(ctx context.Context, t *table) error {
	var mu sync.Mutex
	err := each(ctx, here, f.connections, func(c *connection) error {
		reason, window, err := c.look(t)
		mu.Lock()
		defer mu.Unlock()
		f.window = max(f.window, window)
		if reason != "" {
			for _, s := range c.sockets {
				f.refuseSocket(s, reason)
			}
		}
		return err
	})
	f.connections = slices.DeleteFunc(f.connections, func(c *connection) bool { return c.looked == nil })
	return err
}

// look reads all of a connection that does not change, or tells why it can't move.
func (c *connection) look(t *table) (reason string, window uint32, err error) {
	ends := make([]tcprepair.End, len(c.sockets))
	for i, s := range c.sockets {
		d := t.byInode[uint32(s.Inode)]
		if d.MD5 {
			return "it is authenticated by TCP MD5 signatures", 0, nil
		}
		fd := int(s.File.Fd())
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI | unix.POLLERR}}
		if err := proc.Poll(p); err != nil {
			return "", 0, err
		}
		switch {
		case p[0].Revents&unix.POLLERR != 0:
			return "it has an error, or a notification, that the program has not read", 0, nil
		case p[0].Revents&unix.POLLPRI != 0:
			return "it has urgent data", 0, nil
		}
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return "", 0, fmt.Errorf("look at %s: %w", what(s), err)
		}
		if sockdiag.State(info.State) == sockdiag.SynRecv {
			return "its handshake is not over", 0, nil
		}
		window = max(window, info.Snd_cwnd)
		ends[i] = tcprepair.End{FD: fd, Inode: s.ImageInode(), Queued: d.RecvQ}
	}
	if reason := t.refusal(c); reason != "" {
		return reason, window, nil
	}
	c.looked, err = tcprepair.Look(ends...)
	if refused, ok := errors.AsType[*tcprepair.UnsupportedError](err); ok {
		return refused.What, window, nil
	}
	return "", window, err
}

func (f *found) refuseSocket(s *hold.Socket, reason string) {
	f.refused = append(f.refused, Refused{Inode: s.ImageInode(), What: what(s), Reason: reason})
}

// refuse refuses a socket that can't be made again; false if err says something else.
func (f *found) refuse(err error, s *hold.Socket) bool {
	var refused *plain.UnsupportedError
	if !errors.As(err, &refused) {
		return false
	}
	f.refuseSocket(s, refused.What)
	return true
}

// what names a socket for people.
func what(s *hold.Socket) string {
	switch {
	case s.Path != "":
		return fmt.Sprintf("%s %s", s.Kind, s.Path)
	case s.Remote.IsValid():
		return fmt.Sprintf("%s %s <-> %s", s.Kind, s.Local, s.Remote)
	}
	return fmt.Sprintf("%s %s", s.Kind, s.Local)
}

// here runs a function where the caller is.
func here(fn func() error) error { return fn() }

// each calls fn with all items, on all processors, in a network namespace that do enters.
func each[T any](ctx context.Context, do func(func() error) error, items []T, fn func(T) error) error {
	var g errgroup.Group
	const few = 16 // are not worth another thread
	for part := range slices.Chunk(items, max(len(items)/runtime.GOMAXPROCS(0)+1, few)) {
		g.Go(func() error {
			return do(func() error {
				for _, item := range part {
					if err := ctx.Err(); err != nil {
						return err
					}
					if err := fn(item); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	return g.Wait()
}
