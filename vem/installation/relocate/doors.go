package relocate

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/membership"
)

// Doors are where the control channel of this host listens. Its methods may be called at the same time.
type Doors struct {
	// Serve answers who connects to a listener, until that is closed.
	Serve func(net.Listener) error
	// Run runs what goes on beside requests.
	Run func(func(context.Context))
	Log *slog.Logger

	mu   sync.Mutex // guards what follows
	open map[string]net.Listener
}

// Set has the control channel listen at the addresses of a place, also those that are not there yet, and at
// no others. Connections that are there stay. If it can't listen at one of them it returns a [*membership.Error], and
// listens where it did before.
func (d *Doors) Set(ctx context.Context, p membership.Place) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted, fresh := make(map[string]net.Listener), make(map[string]net.Listener)
	lc := net.ListenConfig{Control: freebind}
	for _, at := range ControlAddresses(p) {
		if wanted[at] = d.open[at]; wanted[at] != nil || fresh[at] != nil {
			continue
		}
		l, err := lc.Listen(ctx, "tcp", at)
		if err != nil {
			for _, l := range fresh {
				err = errors.Join(err, l.Close())
			}
			return &membership.Error{
				Text: "open the control channel", Err: err, Remedy: "end what listens there, or give this host another port with --port",
			}
		}
		fresh[at] = l
	}
	for at, l := range d.open {
		if wanted[at] == nil {
			_ = l.Close() // it is not to be used any more
		}
	}
	for at, l := range fresh {
		wanted[at] = l
		d.Run(func(ctx context.Context) {
			if err := d.Serve(l); err != nil && d.isOpen(at, l) {
				d.Log.ErrorContext(ctx, "serve the control channel", slog.Any("error", err))
			}
		})
	}
	d.open = wanted
	return nil
}

func (d *Doors) isOpen(at string, l net.Listener) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[at] == l
}

// freebind lets a listener have an address that is not there yet (IP_FREEBIND, ip(7)).
func freebind(network, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		if network == "tcp6" {
			serr = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			return
		}
		serr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
	})
	return errors.Join(err, serr)
}

// ControlAddresses are where the control channel of a host listens.
func ControlAddresses(p membership.Place) (list []string) {
	for _, a := range p.Addresses {
		addr := a.Addr
		if addr.IsLinkLocalUnicast() {
			addr = addr.WithZone(a.Device)
		}
		list = append(list, "["+addr.String()+"]:"+strconv.Itoa(int(p.Port)))
	}
	return list
}
