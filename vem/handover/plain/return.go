package plain

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/handover/forge"
)

// Live is a socket that was saved and goes on.
type Live struct {
	*Socket
	FD int
}

// Return has ping and raw sockets receive again what [Socket.ReadQueue] has taken out of them.
// all are all sockets of the network namespace of the calling thread, since no other one may
// receive it too. Returning again does nothing.
func Return(all []Live) error {
	taken := 0
	for _, l := range all {
		if l.Queues() && !l.peeks() {
			taken += len(l.Queue)
		}
	}
	if taken == 0 {
		return nil
	}
	var errs []error
	for _, l := range all {
		if l.Queues() {
			errs = append(errs, l.quiet())
		}
	}
	for _, l := range all {
		if l.Queues() && !l.peeks() && len(l.Queue) > 0 {
			errs = append(errs, l.giveBack(), l.quiet())
		}
	}
	for _, l := range all {
		if l.Queues() {
			errs = append(errs, l.loud())
		}
	}
	return errors.Join(errs...)
}

// quiet has the socket receive nothing.
func (l *Live) quiet() error {
	err := shut(l.FD)
	if errors.Is(err, unix.EPERM) {
		return nil // SO_LOCK_FILTER: it goes on to hear
	}
	return err
}

// loud gives it back the filter that it had.
func (l *Live) loud() error {
	err := unix.SetsockoptInt(l.FD, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOENT):
		return nil
	case err == nil && len(l.Settings.Filter) > 0:
		err = attachFilter(l.FD, l.Settings.Filter)
	}
	if err != nil {
		return fmt.Errorf("give %s its packet filter: %w", l.Settings.What, err)
	}
	return nil
}

func (l *Live) giveBack() (err error) {
	wire, err := forge.Open(l.Settings.Device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wire.Close()) }()
	if err := l.loud(); err != nil {
		return err
	}
	for len(l.Queue) > 0 {
		if err := l.deliver(wire, l.FD, &l.Queue[0]); err != nil {
			return fmt.Errorf("give back to %s what was taken out of it: %w", l.Settings.What, err)
		}
		l.Queue = l.Queue[1:]
	}
	return nil
}
