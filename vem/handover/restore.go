package handover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover/forge"
	"github.com/snapctl/snapctl/vem/handover/plain"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Problem is what a socket that was made again has otherwise than it was, though it works.
type Problem struct {
	Inode uint64 // by which the app's images know it
	What  string
	Err   error
}

// String says it for people.
func (p Problem) String() string { return fmt.Sprintf("%s: %v", p.What, p.Err) }

// Restored is the sockets of an app on another host.
type Restored struct {
	// Set is held, and the caller's: to close it, and to take it from the holder, before
	// Release tells nobody. It is armed and has wide buffers, see [hold.Set.Arm] and
	// [hold.Set.Widen].
	Set *hold.Set
	// Problems are what sockets have otherwise.
	Problems []Problem

	ns          *netns.NS
	connections []madeConnection
	connecting  []connecting
}

// madeConnection is a connection that was made again. The second end of one whose end is
// alone is made when that is released.
type madeConnection struct {
	ends []tcprepair.State
	fds  []int
}

// Restore makes all sockets in the app's network namespace, where its addresses and devices
// must be. The gate is closed: nothing is sent, and nothing may arrive, until Release. If it
// fails, nothing is left.
//
// Cost: 60 us for each connection, on each processor, and a copy of its queues.
func Restore(ctx context.Context, ns *netns.NS, saved *Saved) (_ *Restored, err error) {
	r := &restorer{saved: saved, ns: ns, files: make(map[uint64]*os.File)}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make sockets again: %w", err)
			for _, f := range r.files {
				err = errors.Join(err, f.Close())
			}
		}
	}()
	if err := ns.Do(r.others); err != nil {
		return nil, err
	}
	if err := r.connections(ctx); err != nil {
		return nil, err
	}
	sockets, err := r.sockets()
	if err != nil {
		return nil, err
	}
	out := &Restored{Set: hold.NewSet(sockets), Problems: r.problems, ns: ns}
	if err := errors.Join(out.Set.Arm(), out.Set.Widen(), out.find(saved)); err != nil {
		return nil, err
	}
	if len(saved.Waiting) > 0 { // at last, for the other ends may be in the app
		lost, err := enqueue(ns, out.Set, saved.Waiting)
		if err != nil {
			return nil, errors.Join(err, forget(out.Set))
		}
		out.Problems = append(out.Problems, lost...)
	}
	return out, nil
}

// Resume is for a daemon that has the restored set from the holder, after one that was killed
// before the end of Release. saved is what that one had.
func Resume(ns *netns.NS, set *hold.Set, saved *Saved) (*Restored, error) {
	r := &Restored{Set: set, ns: ns}
	return r, r.find(saved)
}

// find finds the connections in the set.
func (r *Restored) find(saved *Saved) error {
	at := make(map[uint64]int, len(r.Set.Sockets))
	for i := range r.Set.Sockets {
		at[r.Set.Sockets[i].ImageInode()] = i
	}
	for _, c := range saved.Connections {
		w, err := saved.whole(c)
		if err != nil {
			return fmt.Errorf("find sockets that were made again: %w", err)
		}
		m := madeConnection{ends: w.Ends}
		for i := range c.Ends {
			k, ok := at[c.Ends[i].Inode]
			if !ok {
				return fmt.Errorf("find sockets that were made again: socket %d is not held", c.Ends[i].Inode)
			}
			m.fds = append(m.fds, int(r.Set.Sockets[k].File.Fd()))
		}
		r.connections = append(r.connections, m)
	}
	for i := range saved.Others {
		o := &saved.Others[i]
		if k, ok := at[o.Inode]; ok && o.Connecting {
			r.connecting = append(r.connecting, connecting{o, int(r.Set.Sockets[k].File.Fd())})
		}
	}
	return nil
}

// restorer makes sockets.
type restorer struct {
	saved *Saved
	ns    *netns.NS

	mu       sync.Mutex
	files    map[uint64]*os.File
	problems []Problem
}

func (r *restorer) made(inode uint64, f *os.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[inode] = f
}

func (r *restorer) problem(inode uint64, what string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, Problem{Inode: inode, What: what, Err: err})
}

// others makes the sockets that are no connections, listeners first: a connection may be bound
// beside a listener, but not the other way round.
func (r *restorer) others() (err error) {
	m, err := plain.NewMaker()
	if err != nil {
		return err
	}
	backlogs := make(map[uint64]int)
	for i := range r.saved.Sockets {
		backlogs[r.saved.Sockets[i].Inode] = r.saved.Sockets[i].Backlog
	}
	var made []*plain.Made
	defer func() {
		err = errors.Join(err, m.Finish())
		for _, one := range made {
			for _, p := range one.Problems {
				r.problem(one.Inode, one.Settings.What, p)
			}
		}
	}()
	for i := range r.saved.Others {
		s := &r.saved.Others[i]
		one, err := m.Make(s, backlogs[s.Inode])
		if err != nil {
			return err
		}
		made = append(made, one)
		r.made(s.Inode, one.File)
	}
	return nil
}

// connections makes the connections, on all processors.
func (r *restorer) connections(ctx context.Context) error {
	known, err := r.congestion()
	if err != nil {
		return err
	}
	return each(ctx, r.ns.Do, r.saved.Connections, func(c tcprepair.Connection) error {
		c, err := r.saved.whole(c)
		if err != nil {
			return err
		}
		c.Ends = slices.Clone(c.Ends)
		for i := range c.Ends {
			o := &c.Ends[i].Options
			if o.Congestion != "" && !slices.Contains(known, o.Congestion) {
				r.problem(c.Ends[i].Inode, fmt.Sprintf("tcp %s", c.Ends[i].Local), fmt.Errorf("this host has no congestion control %s", o.Congestion))
				o.Congestion = ""
			}
		}
		return r.connection(c)
	})
}

func (r *restorer) connection(c tcprepair.Connection) error {
	for i := range c.Ends {
		if c.Ends[i].Inode == 0 {
			continue // made up: see madeConnection
		}
		s, err := c.Ends[i].Restore()
		if err != nil {
			return err
		}
		r.made(s.Inode, s.File)
	}
	return nil
}

// congestion lists the congestion controls of this host.
func (r *restorer) congestion() (names []string, err error) {
	err = r.ns.Do(func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
		names = strings.Fields(string(b))
		return err
	})
	return names, err
}

// sockets describes what was made.
func (r *restorer) sockets() ([]hold.Socket, error) {
	list := make([]hold.Socket, len(r.saved.Sockets))
	for i, s := range r.saved.Sockets {
		s.File = r.files[s.Inode]
		if slices.Contains(r.saved.Async, s.Inode) {
			if err := setAsync(s.File.Fd()); err != nil {
				return nil, fmt.Errorf("have %s send signals: %w", what(&s), err)
			}
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(s.File.Fd()), &st); err != nil {
			return nil, fmt.Errorf("find number of %s: %w", what(&s), err)
		}
		s.Inode, s.Saved = st.Ino, s.Inode
		if s.Receive != nil {
			b := *s.Receive
			now, err := hold.ReadBuffer(s.Kind, int(s.File.Fd()))
			if err != nil {
				return nil, err
			}
			b.Drops = now.Drops // what was lost before is told at the source
			s.Receive = &b
		}
		list[i] = s
	}
	return list, nil
}

// setAsync sets O_ASYNC. A signal that tells of a descriptor (F_SETSIG) tells another number
// than that of the app.
func setAsync(fd uintptr) error {
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err == nil {
		_, err = unix.FcntlInt(fd, unix.F_SETFL, flags|unix.O_ASYNC)
	}
	return err
}

// Release lets the connections go on, each when it is ready. The gate is open, and the way to
// the other ends right: what a connection sends first must not be lost, or it waits for a
// second. Releasing again, also by a later daemon (see [Resume]), does what is left to do.
//
// A connection that fails here goes on as far as it can; the others do too.
func (r *Restored) Release(ctx context.Context) (err error) {
	var wire *forge.Wire
	if err := r.ns.Do(func() (err error) {
		wire, err = forge.Open("")
		return err
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wire.Close()) }()
	var mu sync.Mutex
	var errs []error
	err = each(ctx, here, r.connections, func(c madeConnection) error {
		if err := c.release(r.ns, wire); err != nil {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		}
		return nil
	})
	return errors.Join(append(errs, err, r.connect())...)
}

func (c *madeConnection) release(ns *netns.NS, wire *forge.Wire) (err error) {
	var ends []tcprepair.Made
	for i, fd := range c.fds {
		s := &c.ends[i]
		ends = append(ends, tcprepair.Made{State: s, FD: fd})
		if s.Finished && len(c.ends) == 1 {
			ends[i].End = func() error { return endOf(wire, s) }
		}
	}
	if len(c.ends) > len(c.fds) {
		p := []unix.PollFd{{Fd: int32(c.fds[0]), Events: unix.POLLRDHUP}}
		if err := proc.Poll(p); err != nil {
			return err
		}
		if p[0].Revents&unix.POLLRDHUP == 0 { // else its stream has ended already
			var other *tcprepair.Socket
			if err := ns.Do(func() (err error) {
				other, err = c.ends[1].Restore()
				return err
			}); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, other.Close()) }()
			ends = append(ends, tcprepair.Made{State: &c.ends[1], FD: int(other.File.Fd())})
		}
	}
	return tcprepair.Release(ends...)
}

// endOf has the kernel see the end of the stream that an end has received all of. The
// segment has no time stamp, so that nothing compares it with others (RFC 7323, 5.5; Linux
// goes by what a segment has), and tells nothing new of the other end's window.
func endOf(wire *forge.Wire, s *tcprepair.State) error {
	window := s.Window.Send >> s.Negotiated.SendScale
	return wire.Segment(forge.Segment{
		Header: forge.Header{From: s.Remote, To: s.Local}, Sequence: s.ReceiveEnd, Acknowledged: s.SendEnd - uint32(len(s.Sent)),
		Flags: forge.FIN | forge.ACK, Window: uint16(min(window, 0xffff)),
	})
}
