package handover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover/backlog"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Waiting is a connection that waits to be accepted.
type Waiting struct {
	Listener uint64 // by which the app's images know it
	State    tcprepair.State
}

// patience is how long handshakes may take that have begun when the gate is about to close.
const patience = 300 * time.Millisecond

// Still has the app's listeners take no new clients any more, and waits until the handshakes
// are over that have begun, for 300 ms at most: of these, and these alone, nobody but the
// kernel knows, which tells nothing of them. A client that comes meanwhile tries again after
// a second. The gate is open yet, and closes next. Save, GoOn and Close end it, and so does
// the end of the process.
//
// Where the kernel has no means for it (before Linux 6.6) it does nothing.
func (l *Leaving) Still(ctx context.Context) error {
	shaking, err := handshakes(l.ns)
	if err != nil || len(shaking) == 0 && !l.listens() {
		return err
	}
	if l.bar, err = backlog.Lower(l.ns); err != nil {
		return nil //nolint:nilerr // clients may have to try again
	}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if shaking, err = handshakes(l.ns); err != nil || len(shaking) == 0 {
			break
		}
		if !pause.For(ctx, time.Millisecond, nil) {
			break
		}
	}
	return err
}

// Close lets new clients in that [Leaving.Still] has kept away. Closing again does nothing.
func (l *Leaving) Close() error { return l.bar.Close() }

func (l *Leaving) listens() bool {
	for _, o := range l.f.others {
		if o.state.Listening {
			return true
		}
	}
	return false
}

// handshakes lists the connections whose handshake is not over.
func handshakes(ns *netns.NS) (list []sockdiag.Inet, err error) {
	c, err := sockdiag.Dial(ns)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // nothing was written
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some, err := c.Inet(sockdiag.InetQuery{Family: family, Proto: unix.IPPROTO_TCP, States: sockdiag.States(sockdiag.SynRecv)})
		if err != nil && !errors.Is(err, sockdiag.ErrInterrupted) {
			return nil, err
		}
		list = append(list, some...)
	}
	return list, nil
}

// saveWaiting saves the connections that wait to be accepted, and takes them out.
func (l *Leaving) saveWaiting(ctx context.Context, saved *Saved) error {
	for _, o := range l.f.others {
		if !o.state.Listening {
			continue
		}
		if err := l.saveQueue(ctx, o, saved); err != nil {
			return fmt.Errorf("save what waits at %s: %w", what(o.socket), err)
		}
	}
	saved.Waiting = l.waiting
	return nil
}

// saveQueue saves those of one listener, in their order.
func (l *Leaving) saveQueue(ctx context.Context, o *other, saved *Saved) error {
	list, err := acceptAll(int(o.socket.File.Fd()))
	if err == nil {
		err = each(ctx, here, list, (*unaccepted).save)
	}
	for _, u := range list {
		if u.state != nil {
			l.waiting = append(l.waiting, Waiting{Listener: o.socket.ImageInode(), State: *u.state})
		}
		if u.reason != "" {
			saved.Refused = append(saved.Refused, Refused{What: what(o.socket) + ": a connection that waits to be accepted", Reason: u.reason})
		}
		err = errors.Join(err, unix.Close(u.fd)) // nobody is told: see tcprepair.SaveOptions
	}
	return err
}

// unaccepted is a connection that was taken out of a queue.
type unaccepted struct {
	fd     int
	state  *tcprepair.State // nil: it is over, since its client has given up
	reason string           // why it can't be saved
}

// acceptAll accepts all connections that wait at a listener.
func acceptAll(listener int) (list []*unaccepted, err error) {
	for {
		p := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if err := proc.Poll(p); err != nil || p[0].Revents&unix.POLLIN == 0 {
			return list, err
		}
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			list = append(list, &unaccepted{fd: fd})
		case errors.Is(err, unix.EAGAIN):
			return list, nil
		case !errors.Is(err, unix.EINTR):
			return list, fmt.Errorf("accept: %w", err)
		}
	}
}

// save saves it, or finds why it can't.
func (u *unaccepted) save() error {
	info, err := unix.GetsockoptTCPInfo(u.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || sockdiag.State(info.State) == sockdiag.Close {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(u.fd, &st); err != nil {
		return fmt.Errorf("find its number: %w", err)
	}
	s, err := tcprepair.SaveOne(tcprepair.SaveOptions{Stay: true, Bare: true}, tcprepair.End{FD: u.fd, Inode: st.Ino})
	if refused, ok := errors.AsType[*tcprepair.UnsupportedError](err); ok {
		u.reason = refused.What
		return nil
	}
	if err == nil {
		u.state = &s
	}
	return err
}

// Return has the connections wait again at the listeners of a set that an earlier daemon has
// left when it was killed after Save: saved is what that one had. It is called before [GoOn],
// and as that. Returning again does nothing.
func Return(ns *netns.NS, set *hold.Set, saved *Saved) error {
	if len(saved.Waiting) == 0 {
		return nil
	}
	lost, err := enqueue(ns, set, saved.Waiting)
	for _, p := range lost {
		err = errors.Join(err, p.Err)
	}
	return err
}

// enqueue has connections wait at the listeners of a set.
func enqueue(ns *netns.NS, set *hold.Set, list []Waiting) (lost []Problem, err error) {
	q, err := backlog.Open(ns)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	listeners := make(map[uint64]*hold.Socket)
	for i := range set.Sockets {
		listeners[set.Sockets[i].ImageInode()] = &set.Sockets[i]
	}
	for i := range list {
		w := &list[i]
		l := listeners[w.Listener]
		if l == nil || l.Kind != hold.TCPListen {
			return lost, fmt.Errorf("have connections wait to be accepted: listener %d is not held", w.Listener)
		}
		if err := q.Put(int(l.File.Fd()), &w.State); err != nil {
			lost = append(lost, Problem{Inode: w.Listener, What: what(l), Err: err})
		}
	}
	return lost, nil
}

// forget closes what waits at the listeners of a set, of which nobody is told.
func forget(set *hold.Set) error {
	var errs []error
	for i := range set.Sockets {
		s := &set.Sockets[i]
		if s.Kind != hold.TCPListen {
			continue
		}
		list, err := acceptAll(int(s.File.Fd()))
		errs = append(errs, err)
		for _, u := range list {
			errs = append(errs, unix.SetsockoptInt(u.fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1), unix.Close(u.fd))
		}
	}
	return errors.Join(errs...)
}
