package wake

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// closedState is how [hold.Socket.State] shows a socket without a connection.
var closedState = sockdiag.Close.String()

// queues is what a watcher knows of the accept queues.
type queues struct {
	// waiting are the listeners, by index, that have connections which may still
	// send.
	waiting map[int]arrivals
}

// arrivals are connections in one accept queue that may still send, by socket
// cookie, or by the client's inode number for unix sockets.
type arrivals map[uint64]arrival

// arrival is what is known of one of them.
type arrival struct {
	seen   time.Time // when it was first found in the queue
	silent bool      // it has sent nothing at all
}

// again notes that a connection is still there, with what is known of it from the
// look before.
func (a arrivals) again(before arrivals, id uint64, bytes int) arrival {
	c, known := before[id]
	if !known {
		c.seen = time.Now()
	}
	c.silent = bytes == 0
	a[id] = c
	return c
}

// lookInto looks into the accept queues of the given listeners and of those
// whose time has come, and plans the next look.
func (w *Watcher) lookInto(indexes map[int]bool) (Event, bool, error) {
	due := !w.recheck.IsZero() && !time.Now().Before(w.recheck)
	if due {
		for i := range w.queues.waiting {
			indexes[i] = true
		}
	}
	if len(indexes) > 0 {
		e, wake, err := w.lookTCP(indexes)
		if err != nil || wake {
			return e, wake, err
		}
		if e, wake, err = w.lookUnix(indexes); err != nil || wake {
			return e, wake, err
		}
	}
	return Event{}, false, w.plan(due || len(indexes) > 0)
}

// looked notes which connections in a listener's queue may still send.
func (w *Watcher) looked(index int, live arrivals) {
	if len(live) == 0 {
		delete(w.queues.waiting, index)
		return
	}
	if w.queues.waiting == nil {
		w.queues.waiting = map[int]arrivals{}
	}
	w.queues.waiting[index] = live
}

// isClient tells whether a silent connection has been open for so long that its
// client must be waiting for the app to speak first: a probe has hung up by then.
func (w *Watcher) isClient(c arrival) bool {
	patience := w.policy.patience()
	return c.silent && patience >= 0 && time.Since(c.seen) >= patience
}

// queuedBuffer is the receive buffer that a connection in an accept queue is taken
// to have, whose real one cannot be asked for: half the usual default.
const queuedBuffer = 64 << 10

// child is a connection in an accept queue.
type child struct {
	cookie uint64
	remote netip.AddrPort
	bytes  int
	live   bool // it may still send
}

func (w *Watcher) lookTCP(indexes map[int]bool) (Event, bool, error) {
	listeners := map[int]*hold.Socket{}
	for i := range indexes {
		if s := &w.set.Sockets[i]; s.Kind == hold.TCPListen {
			listeners[i] = s
		}
	}
	if len(listeners) == 0 {
		return Event{}, false, nil
	}
	for _, s := range listeners {
		full, err := nearlyFull(s)
		if err != nil {
			return Event{}, false, fmt.Errorf("look at listener %s: %w", s.Local, err)
		}
		if full {
			return Event{Socket: s, Reason: Backlog}, true, nil
		}
	}
	children, err := w.children(listeners)
	if err != nil {
		return Event{}, false, err
	}
	for i, s := range listeners {
		live := arrivals{}
		for _, c := range children[i] {
			if w.policy.Ignores(c.remote.Addr()) {
				continue
			}
			e := Event{Socket: s, Reason: Data, Bytes: c.bytes, Remote: c.remote}
			if w.policy.enough(c.bytes, queuedBuffer) {
				return e, true, nil
			}
			if w.policy.Mode == OnConnect {
				e.Reason = Connect
				return e, true, nil
			}
			if c.live && w.isClient(live.again(w.queues.waiting[i], c.cookie, c.bytes)) {
				e.Reason = Silent
				return e, true, nil
			}
		}
		w.looked(i, live)
	}
	return Event{}, false, nil
}

// nearlyFull tells whether new connections will soon be refused: nobody accepts,
// and connections that clients have closed stay in the queue too.
func nearlyFull(s *hold.Socket) (bool, error) {
	info, err := unix.GetsockoptTCPInfo(int(s.File.Fd()), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false, err
	}
	limit, length := info.Sacked, info.Unacked // of a listener: tcp_get_info
	return length > 0 && length >= limit-limit/4, nil
}

// children dumps the connections that wait to be accepted: those without a
// descriptor that are established or closed by the peer only.
func (w *Watcher) children(listeners map[int]*hold.Socket) (map[int][]child, error) {
	conn, err := sockdiag.Dial(w.ns)
	if err != nil {
		return nil, fmt.Errorf("look into accept queues: %w", err)
	}
	defer conn.Close() //nolint:errcheck // nothing was written
	out := map[int][]child{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := conn.Inet(sockdiag.InetQuery{
			Family: family,
			Proto:  unix.IPPROTO_TCP,
			// SYN_RECV with data: TCP Fast Open.
			States: sockdiag.States(sockdiag.Established, sockdiag.CloseWait, sockdiag.SynRecv),
		})
		// An interrupted dump may have missed one; the next look comes soon.
		if err != nil && !errors.Is(err, sockdiag.ErrInterrupted) {
			return nil, fmt.Errorf("look into accept queues: %w", err)
		}
		for _, c := range list {
			if c.Inode != 0 || c.State == sockdiag.SynRecv && c.RecvQ == 0 {
				continue
			}
			for i, s := range listeners {
				if accepts(s, c.Local) {
					out[i] = append(out[i], queued(c))
				}
			}
		}
	}
	return out, nil
}

func queued(c sockdiag.Inet) child {
	bytes := int(c.RecvQ)
	if c.State.PeerClosed() {
		bytes = max(0, bytes-1) // the FIN: net/ipv4/tcp_diag.c, tcp_diag_get_info
	}
	return child{cookie: c.Cookie, remote: c.Remote, bytes: bytes, live: c.State != sockdiag.CloseWait}
}

func accepts(listener *hold.Socket, local netip.AddrPort) bool {
	if listener.Local.Port() != local.Port() {
		return false
	}
	bound := listener.Local.Addr()
	return bound.IsUnspecified() || bound.WithZone("") == local.Addr()
}

// lookUnix looks into the queues of unix listeners. The waiting connection
// itself is not in any dump, but its client's end is: what that has sent and
// nobody has read counts there as send memory (a little more than the payload).
// A client that has closed is not found any more, and does not wake.
func (w *Watcher) lookUnix(indexes map[int]bool) (Event, bool, error) {
	listeners := map[int]*hold.Socket{}
	for i := range indexes {
		if s := &w.set.Sockets[i]; s.Kind == hold.UnixListen {
			listeners[i] = s
		}
	}
	if len(listeners) == 0 {
		return Event{}, false, nil
	}
	known, err := sockdiag.UnixTableOf(w.ns)
	if err != nil {
		return Event{}, false, fmt.Errorf("look into accept queues: %w", err)
	}
	for i, s := range listeners {
		l, _ := known.Find(uint32(s.Inode))
		if l.SendQ > 0 && l.RecvQ >= l.SendQ { // the queue's length and limit
			return Event{Socket: s, Reason: Backlog}, true, nil
		}
		live := arrivals{}
		for _, inode := range l.Pending {
			client, ok := known.Find(inode)
			if !ok && inode != 0 {
				// It is of another namespace, as that of another app, where what
				// it has sent can't be seen, or it came and went meanwhile.
				abroad, err := w.abroad(uint32(s.Inode), inode)
				if err != nil || abroad {
					return Event{Socket: s, Reason: Connect}, err == nil, err
				}
			}
			if !ok {
				continue
			}
			if w.policy.enough(int(client.SendQ), queuedBuffer) {
				return Event{Socket: s, Reason: Data, Bytes: int(client.SendQ)}, true, nil
			}
			if w.isClient(live.again(w.queues.waiting[i], uint64(inode), int(client.SendQ))) {
				return Event{Socket: s, Reason: Silent}, true, nil
			}
		}
		w.looked(i, live)
	}
	return Event{}, false, nil
}

// abroad looks again whether a client waits in a listener's queue that is in none
// of the namespaces that are looked into.
func (w *Watcher) abroad(listener, client uint32) (bool, error) {
	known, err := sockdiag.UnixTableOf(w.ns)
	if err != nil {
		return false, fmt.Errorf("look into accept queues: %w", err)
	}
	l, _ := known.Find(listener)
	_, near := known.Find(client)
	return !near && slices.Contains(l.Pending, client), nil
}

// plan sets the time of the next look, and runs the tap while it is of use.
func (w *Watcher) plan(looked bool) error {
	if len(w.queues.waiting) == 0 {
		w.recheck, w.closer = time.Time{}, 0
		w.closeTap()
		return nil
	}
	if !looked {
		return nil
	}
	running := w.tap != nil
	if err := w.openTap(); err != nil {
		return err
	}
	if w.tap != nil && !running {
		// What came after the look and before the tap was open nobody has told of.
		w.recheck, w.closer = time.Now(), quickLooks
		return nil
	}
	wait := recheckSlow
	if w.tap == nil {
		wait = w.withoutTap()
	}
	for i := range w.queues.waiting {
		if w.set.Sockets[i].Kind == hold.UnixListen {
			wait = w.withoutTap() // the tap does not see unix sockets
		}
	}
	if w.closer > 0 {
		wait = min(wait, recheckPacket<<(quickLooks-w.closer))
		w.closer--
	}
	w.recheck = time.Now().Add(wait)
	if at := w.patienceEnds(); !at.IsZero() && at.Before(w.recheck) {
		w.recheck = at
	}
	return nil
}

// withoutTap is how long to wait for the next look where no tap tells of data. Most
// clients send at once, so new connections are looked at more often: what one sends
// is found after half of the time that the connection has been there by then.
func (w *Watcher) withoutTap() time.Duration {
	wait := recheckNoTap
	for _, live := range w.queues.waiting {
		for _, c := range live {
			wait = min(wait, max(recheckPacket, time.Since(c.seen)/2))
		}
	}
	return wait
}

// patienceEnds is when the first silent connection will count as a client; zero if
// none will.
func (w *Watcher) patienceEnds() time.Time {
	var first time.Time
	patience := w.policy.patience()
	if patience < 0 {
		return first
	}
	for _, live := range w.queues.waiting {
		for _, c := range live {
			if at := c.seen.Add(patience); c.silent && (first.IsZero() || at.Before(first)) {
				first = at
			}
		}
	}
	return first
}

// packetSeen empties the tap and brings the next look forward.
func (w *Watcher) packetSeen() {
	if w.tap == nil {
		return
	}
	w.tap.drain()
	w.closer = quickLooks
	if soon := time.Now().Add(recheckPacket / 2); w.recheck.After(soon) {
		w.recheck = soon
	}
}
