package template

import (
	"net/netip"
	"strconv"
)

// Published is a port of a clone that is reachable at the host's addresses.
type Published struct {
	Protocol    Protocol   `json:"protocol"`
	HostAddress netip.Addr `json:"host_address,omitzero"` // zero: every address of the host
	HostPort    uint16     `json:"host_port"`
	Port        uint16     `json:"port"` // the clone's
}

// publishStatic checks what of a publication is the same for each clone.
func publishStatic(f *finder, at string, p Publication) {
	if p.HostPort == "" {
		f.bad(at+".host_port", "no port: want one for each clone, such as '{{ add 8000 .Number }}'")
	}
	if p.Port == "" {
		f.bad(at+".port", "no port: want the app's, such as 80")
	}
	for _, port := range []struct {
		at   string
		text Text
	}{{at + ".host_port", p.HostPort}, {at + ".port", p.Port}} {
		if port.text != "" && port.text.static() {
			parsePort(f, port.at, string(port.text))
		}
	}
	if p.HostAddress != "" && p.HostAddress.static() {
		parseHostAddress(f, at+".host_address", string(p.HostAddress))
	}
}

func parsePort(f *finder, at, text string) uint16 {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		f.bad(at, "%q: want a port from 1 to 65535", text)
	}
	return uint16(n)
}

func parseHostAddress(f *finder, at, text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		f.bad(at, "%q: want an IPv4 address of the host, or leave it out for all", text)
	}
	return a
}

// publish renders a publication for a clone.
func (p Publication) publish(f *finder, at string, render func(string, Text) string) Published {
	pub := Published{Protocol: p.Protocol}
	if pub.Protocol == "" {
		pub.Protocol = TCP
	}
	found := len(f.found)
	address, host, inside := render(at+".host_address", p.HostAddress), render(at+".host_port", p.HostPort), render(at+".port", p.Port)
	if len(f.found) > found {
		return pub
	}
	if address != "" {
		pub.HostAddress = parseHostAddress(f, at+".host_address", address)
	}
	pub.HostPort = parsePort(f, at+".host_port", host)
	pub.Port = parsePort(f, at+".port", inside)
	return pub
}
