// Package wireguard carries the packets of a network to other hosts encrypted and authenticated, by
// a WireGuard device and routes of the kernel's: for underlay networks that are not trusted.
//
// The device is in the fabric of the network, and its UDP socket in the host's namespace: packets
// need no address of the underlay in the fabric, and no hop through the host.
//
//	endpoint -- fabric: route 10.77.0.9 -- wg0: which host has 10.77.0.9? -- UDP port of that host
//
// Which host a packet goes to, and whether what comes from one is let in, WireGuard decides by one
// table ("allowed IPs"): it has each endpoint of another host that there is a route to, and nothing
// else. So a host can send as its own endpoints only, and nobody else can send at all. An address
// has one host there at each moment, and changes in one step.
//
// # Machines beyond gateways
//
// What several gateways may send can't be in that table, in which an address is one host's. So packets
// from and to machines that keep their addresses (see [channel.Router]) go from fabric to fabric in
// another header inside of WireGuard's, that of VXLAN, by a device which has the hosts as package vxlan
// has them. Its addresses come from the hosts' public keys, and are in the table. It is there while
// there are such machines, needs the kernel's module vxlan, and takes 70 bytes of each packet: the
// underlay has to carry 1440 bytes (1420 by IPv4).
//
//	machine -- host -- fabric: rule "from" -- route 10.77.0.9 -- wgx0 -- wg0 -- UDP port of that host
//
// # Where it runs
//
// Where the kernel has WireGuard (Linux 5.6, CONFIG_WIREGUARD) it is the kernel's. Elsewhere a
// process of its own does it in user space (wireguard-go), see package userspace: it takes a TUN in
// the fabric for the device. That process outlives the daemon, so traffic goes on. The next daemon
// finds it by its socket; if it ends, its device and all routes end with it, and the daemon starts
// another one with all that the first one had. The daemon asks it every two seconds whether it is
// there, and ends it if it has not answered twice, after five seconds each: so one that hangs is
// replaced too. One that hangs when a daemon starts is ended, and the next packet asks for the way
// anew. It is slow: a twentieth to a fifth of what the underlay carries (one stream), and 20 to 40
// times its round trip. Both are configured the same way (wgctrl): by netlink, and by a socket in
// /var/run/wireguard, where wg(8) shows them too.
//
// # Keys and ports
//
// Each host has a secret, see [LoadSecret]. The key pair of each network is made from that and the
// network's name, so that what was recorded in one network is nothing in another one. Hosts tell
// each other their public keys and ports over the control channel ([Module.Offer]). A device has a
// port of its own, from [FirstPort] on, [Ports] of them: the network's name says which one is tried
// first. From the first offer on nobody else can have it: a socket that takes nothing keeps it until
// there is a device.
//
// # The way over the underlay
//
// Packets go to the remote address of the host's channel. The kernel's routes choose the device and
// the source. The other host takes packets from all addresses that this one has. WireGuard of the
// kernel's answers to where an authentic packet came from last: while a channel changes its way it
// may stay on the old one, as long as that works, until the next [Module.Report].
//
// # Packet sizes
//
// WireGuard pads packets to a multiple of 16 bytes, but not beyond the MTU. So where the underlay
// has no room for the network's MTU, the room is rounded down to such a multiple.
//
// # In the kernel
//
// Device, routes and firewall tables are the kernel's, and the next [Open] finds all hosts and
// routes in them (see packages guard and routes). They are made for the first host and removed with
// the last.
//
// Needs CAP_NET_ADMIN and CAP_SYS_ADMIN, the kernel's module nf_tables, and either wireguard or tun;
// Linux 5.3 (pidfd_open).
package wireguard
