package hold

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// Arm makes the set ready for a long hold: TCP listeners get the longest accept
// queue that the namespace's net.core.somaxconn allows, for nobody accepts.
// [Set.Disarm] undoes it, also in a later daemon, since what the app asked for is
// in [Socket.Backlog]. Arming again does nothing.
//
// listen(2) on a TCP listener only sets the limit (net/ipv4/af_inet.c,
// __inet_listen_sk). On a unix listener it would also replace the credentials that
// clients see in SO_PEERCRED by ours (net/unix/af_unix.c, unix_listen), so those
// are left alone: their clients wait in connect(2) when the queue is full.
//
// TCP_DEFER_ACCEPT is not used. It would keep silent connections out of the
// queue, but such a client is then served only after a SYN-ACK timer of up to
// minutes once the app is back (net/ipv4/tcp_minisocks.c, tcp_check_req), and
// its connection may be given up. Package vem/wake looks into the queue instead.
func (s *Set) Arm() error {
	return s.listen(func(Socket) int { return math.MaxInt32 })
}

// Disarm puts back what [Set.Arm] changed. Connections beyond the app's own
// limit stay in the queue.
func (s *Set) Disarm() error {
	return s.listen(func(sock Socket) int { return sock.Backlog })
}

func (s *Set) listen(backlog func(Socket) int) error {
	var errs []error
	for _, sock := range s.Sockets {
		if sock.Kind != TCPListen || sock.File == nil {
			continue
		}
		if err := unix.Listen(int(sock.File.Fd()), backlog(sock)); err != nil {
			errs = append(errs, fmt.Errorf("set backlog of %s: %w", sock.Local, err))
		}
	}
	return errors.Join(errs...)
}
