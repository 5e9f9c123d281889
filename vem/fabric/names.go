package fabric

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"

	"github.com/snapctl/snapctl/vem/fabric/fastpath"
)

// Device names. The kernel allows 15 bytes (IFNAMSIZ 16 with the final NUL).
const (
	UplinkDevice = "host0" // in the fabric, towards the host
	AppDevice    = "eth0"  // in the app
	// EndpointPrefix is how the names of the fabric's devices towards apps begin.
	EndpointPrefix = "ep"
	// SlowDevice is in the fabric, where packets wait that have no way yet (package slowpath).
	SlowDevice = "slow0"
	// VXLANDevice is in the fabric, where packets leave for other hosts by VXLAN (package vxlan).
	VXLANDevice = "vxlan0"
	// WireGuardDevice is in the fabric, where packets leave for other hosts encrypted (package
	// wireguard).
	WireGuardDevice = "wg0"
	// MachinesDevice is in the fabric, where packets from and to machines beyond gateways get the header
	// with which they leave by WireGuardDevice (likewise).
	MachinesDevice = "wgx0"
)

// Every link has two ends and permanent neighbour entries on both, so these need
// not be unique beyond one link. 0x02: locally administered.
var (
	fabricMAC = net.HardwareAddr{0x02, 0x73, 0, 0, 0, 1} // the fabric's end of each link
	hostMAC   = fastpath.HostMAC                         // the host's end
)

// The fabric's address as seen from any link: the next hop of apps and host.
// Link-local, so it takes nothing from the network's prefix and is the same in
// every network and on every host.
var (
	nextHop4 = netip.AddrFrom4([4]byte{169, 254, 1, 1})
	nextHop6 = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 1})
)

// devicePrefix is what the names of the host's devices begin with, of all networks.
const devicePrefix = "snap-"

// hostDevice returns "snap-" and the network's name if it is short enough, else a
// digest of it.
func hostDevice(network string) string {
	const limit = 15 - len(devicePrefix)
	if len(network) <= limit {
		return devicePrefix + network
	}
	sum := sha256.Sum256([]byte(network))
	return devicePrefix + hex.EncodeToString(sum[:])[:limit]
}

// endpointDevice returns the name of an endpoint's device in the fabric.
func endpointDevice(a4 netip.Addr) string {
	raw := a4.As4()
	return EndpointPrefix + hex.EncodeToString(raw[:])
}

// endpointMAC is the default hardware address of an app: a function of its
// address, so that it is the same wherever the endpoint moves.
func endpointMAC(a4 netip.Addr) net.HardwareAddr {
	raw := a4.As4()
	return append(net.HardwareAddr{0x02, 0x73}, raw[:]...)
}

func tableName(network string) string { return "snapctl-" + network }
