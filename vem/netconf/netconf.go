// Package netconf reads what a program has set in its own network namespace, and sets it
// in another one: addresses, routes, rules, neighbours, devices, sysctls below net, and
// nftables. What the namespace had to begin with (package fabric) is not the program's.
//
//	Read ──▶ Settings ──▶ Encode ... Decode ──▶ Settings.Apply
//
// Addresses, routes, rules and nftables are kept as the messages in which the kernel
// tells of them, and told to it again, as `ip route save` and `restore` do: so whatever
// a kernel can tell is kept. Only the numbers of devices are exchanged.
//
// A copy of the app is told all of it when its namespace is connected, before there is a socket in
// it: so sockets can be bound to the addresses. What can't be kept [Read] returns as missing, for a
// note of the command that saves.
package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// NetNS is a network namespace; *netns.NS is one.
type NetNS interface{ Do(fn func() error) error }

// Standard is what an app's namespace has that the app has not set.
type Standard struct {
	// Device is the app's device, beside lo.
	Device string
	// Addresses are those of Device, and Gateways where its default routes lead.
	Addresses, Gateways []netip.Addr
	// Sysctls are below /proc/sys/net, with slashes. A device gets those of
	// conf/default.
	Sysctls map[string]string
}

// Settings are what a program has set.
type Settings struct {
	// Devices names all devices, by the numbers that the messages have.
	Devices map[int]string `json:"devices,omitempty"`
	Links   []Link         `json:"links,omitempty"`
	// Messages are of rtnetlink, in the order in which they are to be sent.
	Messages []Message         `json:"messages,omitempty"`
	Sysctls  map[string]string `json:"sysctls,omitempty"`
	Tables   []Table           `json:"nftables,omitempty"`
	// Addresses are all that Messages give devices.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// Message is something that rtnetlink tells of, and can be told.
type Message struct {
	Type uint16 `json:"type"` // RTM_NEWADDR and the like
	Data []byte `json:"data"`
	Text string `json:"text"` // for people, like "route 10.98.0.0/24 dev lo"
}

// Empty tells whether there are none.
func (s *Settings) Empty() bool {
	return len(s.Links) == 0 && len(s.Messages) == 0 && len(s.Sysctls) == 0 && len(s.Tables) == 0
}

// Missing is something of the program's that can't be kept.
type Missing struct {
	What string // like "network device wg0 (wireguard)"
	// Device is the name of a device that is missing; empty else.
	Device string
	// Addresses are those of the device.
	Addresses []netip.Addr
}

// ErrMalformed is data that Encode has not made.
var ErrMalformed = errors.New("malformed network settings")

const version = 1

type file struct {
	Version int `json:"version"`
	Settings
}

// Encode makes the bytes of a file.
func Encode(s Settings) ([]byte, error) { return json.Marshal(file{version, s}) }

// Decode is the inverse of Encode. Returns an error wrapping [ErrMalformed]. What the
// messages say the kernel checks.
func Decode(b []byte) (Settings, error) {
	var f file
	if err := json.Unmarshal(b, &f); err != nil {
		return Settings{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if f.Version != version {
		return Settings{}, fmt.Errorf("%w: version %d, this snapctl reads %d", ErrMalformed, f.Version, version)
	}
	for path := range f.Sysctls {
		if !sensible(path) {
			return Settings{}, fmt.Errorf("%w: sysctl %q", ErrMalformed, path)
		}
	}
	for _, m := range f.Messages {
		if known(m.Type) == nil || len(m.Data) < known(m.Type).header {
			return Settings{}, fmt.Errorf("%w: message of type %d", ErrMalformed, m.Type)
		}
	}
	for _, t := range f.Tables {
		for _, m := range t.Messages {
			if len(m.Data) < filterHeader {
				return Settings{}, fmt.Errorf("%w: table %s", ErrMalformed, t.Name)
			}
		}
	}
	return f.Settings, nil
}
