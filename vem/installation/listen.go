package installation

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/membership"
)

// serve listens for other hosts at the addresses of this one, also those that are not there yet.
func (i *Installation) serve(ctx context.Context, p *part) error {
	lc := net.ListenConfig{Control: freebind}
	for _, at := range controlAddresses(i.placeNow()) {
		l, err := lc.Listen(ctx, "tcp", at)
		if err != nil {
			return &membership.Error{
				Text: "open the control channel", Err: err, Remedy: "end what listens there, or give this host another port with --port",
			}
		}
		p.run(func(context.Context) {
			if err := p.server.Serve(l); err != nil {
				i.opt.Log.ErrorContext(ctx, "serve the control channel", slog.Any("error", err))
			}
		})
		p.run(func(ctx context.Context) {
			<-ctx.Done()
			p.server.Close()
		})
	}
	return nil
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

// controlAddresses are where the control channel of a host listens.
func controlAddresses(p membership.Place) (list []string) {
	for _, a := range p.Addresses {
		addr := a.Addr
		if addr.IsLinkLocalUnicast() {
			addr = addr.WithZone(a.Device)
		}
		list = append(list, "["+addr.String()+"]:"+strconv.Itoa(int(p.Port)))
	}
	return list
}
