package wake

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// Watcher waits for the first traffic on a held set that a policy lets through.
//
// It never reads from a held socket, and changes nothing that the app or a peer
// could see. It needs no thread: the epoll descriptor waits in the Go runtime's
// own poller.
//
// What it cannot see at once: payload on a connection that nobody has accepted
// yet. Such connections have no descriptor. While there are any, a packet tap in
// the app's network namespace tells that something came, and a timer covers what
// the tap missed, and finds those that stay silent.
type Watcher struct {
	set    *hold.Set
	policy Policy
	ns     sockdiag.NetNS
	epoll  *os.File
	closed atomic.Bool
	stuck  map[int]bool // sockets whose output was stuck at the start, by index

	queues  queues
	tap     *tap
	recheck time.Time // when to look into the accept queues again; zero: not
	closer  int       // how many quick looks follow a packet on the tap
}

// Timing of looks into accept queues that hold silent connections.
const (
	recheckSlow   = 2 * time.Second        // the tap runs
	recheckNoTap  = 250 * time.Millisecond // it does not, and no connection is new
	recheckPacket = 2 * time.Millisecond   // the tap saw a packet: TCP gets it a little later
	quickLooks    = 3                      // after 2, 4 and 8 ms
)

// tapIndex marks the tap's events.
const tapIndex = -1

// NewWatcher starts to watch. What already waits on the sockets counts as
// traffic too. ns is the app's network namespace. The caller closes the watcher
// before the set.
//
// It returns an error wrapping [ErrPolicy] for a wrong policy.
func NewWatcher(set *hold.Set, policy Policy, ns sockdiag.NetNS) (*Watcher, error) {
	if err := policy.Validate(); err != nil {
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	// Non-blocking, so that os.NewFile gives it to the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("watch sockets: %w", err), unix.Close(fd))
	}
	w := &Watcher{
		set: set, policy: policy, ns: ns,
		epoll: os.NewFile(uintptr(fd), "epoll"),
		stuck: map[int]bool{},
	}
	if policy.Mode == Never {
		return w, nil
	}
	if err := w.register(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Watch waits for the first traffic on set that policy lets through, or until
// ctx is done. See [NewWatcher] and [Watcher.Wait].
func Watch(ctx context.Context, set *hold.Set, policy Policy, ns sockdiag.NetNS) (Event, error) {
	w, err := NewWatcher(set, policy, ns)
	if err != nil {
		return Event{}, err
	}
	e, err := w.Wait(ctx)
	return e, errors.Join(err, w.Close())
}

// Close frees what the watcher uses and ends a running Wait, with an error
// wrapping [os.ErrClosed]. The set stays open.
// Closing again returns an error wrapping [os.ErrClosed].
func (w *Watcher) Close() error {
	w.closed.Store(true)
	return w.epoll.Close()
}

// register adds every held socket to the epoll set, edge-triggered: a socket
// that was looked at and not found worth a wake is left alone until more comes.
func (w *Watcher) register() error {
	blocked, err := w.findStuck()
	if err != nil {
		return err
	}
	for i := range w.set.Sockets {
		if w.set.Sockets[i].Inside {
			continue
		}
		events := uint32(unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLET)
		if blocked[i] {
			w.stuck[i] = true
			events |= unix.EPOLLOUT
		}
		if err := w.add(int(w.set.Sockets[i].File.Fd()), i, events); err != nil {
			return fmt.Errorf("watch socket %d: %w", w.set.Sockets[i].Inode, err)
		}
	}
	return nil
}

func (w *Watcher) add(fd, index int, events uint32) error {
	var err error
	if ctlErr := w.control(func(epoll int) {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(index)})
	}); ctlErr != nil {
		return ctlErr
	}
	return err
}

func (w *Watcher) control(fn func(epoll int)) error {
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Control(func(fd uintptr) { fn(int(fd)) })
}

// findStuck tells which connections have more to send than their buffer takes,
// or are still being made. The app waits for these to go on: an app that sleeps
// in the middle of an answer would otherwise never send the rest.
func (w *Watcher) findStuck() (map[int]bool, error) {
	polls := make([]unix.PollFd, len(w.set.Sockets))
	for i := range w.set.Sockets {
		s := &w.set.Sockets[i]
		polls[i] = unix.PollFd{Fd: -1}
		if s.Kind == hold.TCP || s.Kind == hold.Unix && !s.Inside {
			polls[i] = unix.PollFd{Fd: int32(s.File.Fd()), Events: unix.POLLOUT}
		}
	}
	if err := proc.Poll(polls); err != nil {
		return nil, fmt.Errorf("poll held sockets: %w", err)
	}
	out := map[int]bool{}
	for i, p := range polls {
		if p.Fd >= 0 && p.Revents&(unix.POLLOUT|unix.POLLHUP|unix.POLLERR) == 0 {
			out[i] = true
		}
	}
	return out, nil
}

// Wait blocks until the first traffic that the policy lets through, and returns
// ctx's error if it is done before. Call it from one goroutine at a time; it may
// be called again.
func (w *Watcher) Wait(ctx context.Context) (Event, error) {
	defer w.closeTap()
	stop := context.AfterFunc(ctx, func() {
		w.epoll.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // closed: Wait ends anyway
	})
	defer stop()
	if len(w.queues.waiting) > 0 { // from an earlier Wait
		w.recheck = time.Now()
	}
	// As many as there can be: they wait with each app that sleeps, mostly for few sockets.
	events := make([]unix.EpollEvent, min(len(w.set.Sockets)+1, 128))
	for {
		n, err := w.ready(ctx, events)
		if err != nil {
			return Event{}, err
		}
		looks := map[int]bool{} // listeners to look into
		for _, ready := range events[:n] {
			if ready.Fd == tapIndex {
				w.packetSeen()
				continue
			}
			e, wake, look, err := w.judge(int(ready.Fd), ready.Events)
			if err != nil || wake {
				return e, err
			}
			if look {
				looks[int(ready.Fd)] = true
			}
		}
		e, wake, err := w.lookInto(looks)
		if err != nil || wake {
			return e, err
		}
	}
}

// ready waits for epoll events, for the time of the next look into the accept
// queues (then it returns none), or for ctx.
func (w *Watcher) ready(ctx context.Context, events []unix.EpollEvent) (int, error) {
	if err := w.epoll.SetReadDeadline(w.recheck); err != nil {
		return 0, w.ended(err)
	}
	if err := ctx.Err(); err != nil { // the AfterFunc's deadline may be overwritten now
		return 0, err
	}
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return 0, w.ended(err)
	}
	var n int
	var waitErr error
	err = conn.Read(func(fd uintptr) bool {
		n, waitErr = unix.EpollWait(int(fd), events, 0) // does not wait: no EINTR
		return waitErr != nil || n > 0
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, ctx.Err()
	case err != nil:
		return 0, w.ended(err)
	case waitErr != nil:
		return 0, w.ended(waitErr)
	}
	return n, nil
}

// ended turns the errors of a watcher that was closed into os.ErrClosed.
func (w *Watcher) ended(err error) error {
	if w.closed.Load() {
		err = os.ErrClosed
	}
	return fmt.Errorf("wait for traffic: %w", err)
}
