package value

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol is what is published.
type Protocol string

// The protocols.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

// Publication makes a port of an app reachable at the host's addresses.
type Publication struct {
	Protocol    Protocol
	HostAddress netip.Addr // zero: every address of the host
	HostPort    uint16
	Port        uint16 // the app's
}

// ParsePublication reads [ADDR:]HOSTPORT[:PORT][/tcp|/udp]. Without PORT it is
// the same as HOSTPORT. An IPv6 address stands in brackets.
func ParsePublication(text string) (Publication, error) {
	wrong := fmt.Errorf("%q is not [ADDR:]HOSTPORT[:PORT][/udp]", text)
	p := Publication{Protocol: TCP}
	ports, protocol, ok := strings.Cut(text, "/")
	if ok {
		var err error
		if p.Protocol, err = Word(TCP, UDP)(protocol); err != nil {
			return Publication{}, fmt.Errorf("protocol %w", err)
		}
	}
	addr, ports, err := cutAddress(ports)
	if err != nil {
		return Publication{}, fmt.Errorf("%w: %w", wrong, err)
	}
	p.HostAddress = addr
	host, inside, ok := strings.Cut(ports, ":")
	if !ok {
		inside = host
	}
	if p.HostPort, err = parsePort(host); err != nil {
		return Publication{}, fmt.Errorf("%w: %w", wrong, err)
	}
	if p.Port, err = parsePort(inside); err != nil {
		return Publication{}, fmt.Errorf("%w: %w", wrong, err)
	}
	return p, nil
}

// cutAddress takes the address off the front, if there is one. What begins with
// a number and a dot, or with a bracket, is an address.
func cutAddress(text string) (addr netip.Addr, rest string, err error) {
	first, after, found := strings.Cut(text, ":")
	if inside, ok := strings.CutPrefix(text, "["); ok {
		if first, after, found = strings.Cut(inside, "]:"); !found || !strings.Contains(first, ":") {
			return netip.Addr{}, "", fmt.Errorf("an IPv6 address looks like [::1]")
		}
	} else if !strings.Contains(first, ".") {
		return netip.Addr{}, text, nil
	}
	if !found {
		return netip.Addr{}, "", fmt.Errorf("no port after the address")
	}
	if addr, err = netip.ParseAddr(first); err != nil || addr.Zone() != "" {
		return netip.Addr{}, "", fmt.Errorf("%q is not an address", first)
	}
	return addr, after, nil
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port", text)
	}
	return uint16(n), nil
}

// String is what [ParsePublication] reads, in its longest form.
func (p Publication) String() string {
	ports := fmt.Sprintf("%d:%d/%s", p.HostPort, p.Port, p.Protocol)
	switch {
	case !p.HostAddress.IsValid():
		return ports
	case p.HostAddress.Is4():
		return p.HostAddress.String() + ":" + ports
	default:
		return "[" + p.HostAddress.String() + "]:" + ports
	}
}
