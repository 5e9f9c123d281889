package value

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// UnderlayAddress is where other hosts reach this one.
type UnderlayAddress struct {
	Address  netip.Addr // of a link-local one the zone is in Device
	Device   string     // empty: any that has the address
	Priority int32      // 0 to 1000: the lower, the sooner it is used
}

// maxPriority bounds priorities, so that they look alike in tables.
const maxPriority = 1000

// ParseUnderlayAddress reads ADDR[%DEVICE][,priority=N]. A link-local IPv6 address needs a
// device.
func ParseUnderlayAddress(text string) (UnderlayAddress, error) {
	place, option, given := strings.Cut(text, ",")
	wrong := fmt.Errorf("%q is not ADDR[%%DEVICE][,priority=N]", text)
	addr, device, zoned := strings.Cut(place, "%")
	ip, err := netip.ParseAddr(addr)
	switch {
	case err != nil:
		return UnderlayAddress{}, fmt.Errorf("%w: %q is not an address", wrong, addr)
	case zoned && (device == "" || len(device) > 15 || strings.ContainsAny(device, "/ \t")):
		return UnderlayAddress{}, fmt.Errorf("%w: %q is not a network device", wrong, device)
	}
	a := UnderlayAddress{Address: ip.Unmap(), Device: device}
	switch ip := a.Address; {
	case ip.IsLoopback(), ip.IsUnspecified(), ip.IsMulticast():
		return UnderlayAddress{}, fmt.Errorf("%w: no other host reaches this one at %s", wrong, ip)
	case ip.IsLinkLocalUnicast() && device == "":
		return UnderlayAddress{}, fmt.Errorf("%w: a link-local address needs its device: %s%%eth0", wrong, ip)
	}
	if !given {
		return a, nil
	}
	n, ok := strings.CutPrefix(option, "priority=")
	priority, err := strconv.ParseInt(n, 10, 32)
	if !ok || err != nil || priority < 0 || priority > maxPriority {
		return UnderlayAddress{}, fmt.Errorf("%w: a priority is a number from 0 to %d", wrong, maxPriority)
	}
	a.Priority = int32(priority)
	return a, nil
}

// String is what [ParseUnderlayAddress] reads.
func (a UnderlayAddress) String() string {
	text := a.Address.String()
	if a.Device != "" {
		text += "%" + a.Device
	}
	if a.Priority != 0 {
		text += ",priority=" + strconv.Itoa(int(a.Priority))
	}
	return text
}

// ControlPort is where the control channel of a host listens that was not told otherwise.
const ControlPort = 7077

// ParseHostPort reads HOST[:PORT], where HOST is a name or an address, and an IPv6 address
// stands in brackets if a port follows. Without a port it is [ControlPort].
func ParseHostPort(text string) (string, error) {
	wrong := fmt.Errorf("%q is not ADDRESS[:PORT]", text)
	if ip, err := netip.ParseAddr(text); err == nil {
		return netip.AddrPortFrom(ip, ControlPort).String(), nil
	}
	if inside, ok := strings.CutPrefix(text, "["); ok {
		if addr, ok := strings.CutSuffix(inside, "]"); ok {
			text = "[" + addr + "]:" + strconv.Itoa(ControlPort)
		}
		p, err := netip.ParseAddrPort(text)
		if err != nil || p.Port() == 0 {
			return "", wrong
		}
		return p.String(), nil
	}
	host, port, _ := strings.Cut(text, ":")
	n, err := parsePort(cmp.Or(port, strconv.Itoa(ControlPort)))
	if err != nil {
		return "", fmt.Errorf("%w: %w", wrong, err)
	}
	if host == "" || strings.ContainsAny(host, " \t/@") {
		return "", wrong
	}
	return host + ":" + strconv.Itoa(int(n)), nil
}
