package copies

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/netconf"
)

// Bindable tells what a copy of an app can bind its sockets to.
type Bindable struct {
	Own     func(netip.Addr) bool // tells the addresses that it has
	Missing []netconf.Missing     // what the app has and the copy has not
}

// CheckBound refuses sockets of running processes that a copy could not bind again, each
// with an *[hold.UnsupportedError]: those bound to an address that is not the copy's, or to
// a device that is missing. Connections of TCP are none of them.
//
// Cost: 3 us a descriptor.
func CheckBound(ctx context.Context, pids []int, to Bindable) error {
	var errs []error
	for _, pid := range pids {
		err := collect.EachSocket(ctx, []int{pid}, func(s hold.OpenSocket) error {
			if err := to.check(s); err != nil {
				errs = append(errs, err)
			}
			return nil
		})
		if err != nil && !errors.Is(err, proc.ErrGone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// CheckHeldBound does the same for an app that is held.
func CheckHeldBound(set *hold.Set, to Bindable) error {
	var errs []error
	err := set.EachSocket(func(s hold.OpenSocket) error {
		if err := to.check(s); err != nil {
			errs = append(errs, err)
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// check judges one socket.
func (b Bindable) check(s hold.OpenSocket) error {
	addr, device, ok := boundTo(s.FD)
	if !ok {
		return nil
	}
	refuse := func(what, remedy string) error {
		return &hold.UnsupportedError{PID: s.Owner.PID, FD: s.Owner.FD, What: what, Remedy: remedy}
	}
	if i := slices.IndexFunc(b.Missing, func(m netconf.Missing) bool { return m.Device != "" && m.Device == device }); i >= 0 {
		return refuse(fmt.Sprintf("socket bound to %s (copies of the app do not have that)", b.Missing[i].What), "close it before")
	}
	a := addr.Addr().Unmap()
	if a.IsUnspecified() || a.IsMulticast() || b.Own(a) {
		return nil
	}
	where := "no address of the app's devices any more"
	for _, m := range b.Missing {
		if slices.Contains(m.Addresses, a) {
			where = "an address of " + m.What + ", and copies of the app do not have that"
		}
	}
	return refuse(fmt.Sprintf("socket at %s (%s)", addr, where), "let the program bind to 0.0.0.0 or [::], or set IP_FREEBIND")
}

// boundTo tells where a socket is bound; ok is false if that does not matter to a copy.
func boundTo(fd int) (addr netip.AddrPort, device string, ok bool) {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || family != unix.AF_INET && family != unix.AF_INET6 {
		return addr, "", false
	}
	if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.State != 10 { // not TCP_LISTEN
		return addr, "", false
	}
	if free, err := unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND); err == nil && free != 0 {
		return addr, "", false
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return addr, "", false
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		addr = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		addr = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	default:
		return addr, "", false
	}
	device, _ = unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	return addr, device, true
}
