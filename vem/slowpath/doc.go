// Package slowpath is where packets of a virtual network wait that have no way yet: for an
// endpoint of another host to which no channel leads, one that nobody has, or one that is held
// while it moves.
//
//	app netns        fabric netns                                     this process
//	eth0 ── ep0a4d0007
//	          │ route 10.77.9.9/32 ... to a channel, if there is one
//	          │ route 10.77.0.0/16 to slow0, metric 2147483646
//	          │                         slow0 ═══ packets ══════════▶ a queue for each destination
//	          │ unreachable 10.77.0.0/16  ▲                               │ Resolver.Resolve
//	          │      metric 2147483647    ╚═══ the same packets ◀═════════╡ Way.Prepare
//	          ▼                                                           │ Way.Open
//	        channel                                                       ▼
//
// The first packet of a destination makes a look-up by the [Resolver]; it and those after it wait.
// The [Way] is prepared: then whatever is written into slow0 takes it. All that waits is written,
// in order, and what comes meanwhile as well. Then the way is opened for everybody: no packet of
// the destination comes here any more, but for those that were underway, which are written at
// once. If nobody has the address, the senders get an ICMP "host unreachable", and so do those
// who send there within the next seconds ([Limits].Remember). After any other error it is tried
// again after growing pauses until the first packet has waited for [Limits].Patience.
//
// # The device
//
// slow0 is a TAP, though there is no other side that would need Ethernet: what is written into it
// passes the device's ingress hook of tc, where the programs of channels are, and these read the
// Ethernet header that packets have on all other devices of the fabric. (A packet of a TUN has
// none, and bpf_redirect_peer would give it to an app's device without one.) Its hardware
// addresses are fixed, its next hop is a permanent neighbour.
//
// Its packets have no virtio header (IFF_VNET_HDR), so the kernel cuts segments that it had left
// whole and fills in checksums that it had left open before they are queued
// (validate_xmit_skb in net/core/dev.c). What waits is then bounded in bytes wherever it waits,
// an ICMP error can quote it, and no channel has to handle more than single packets of the
// network's MTU. That costs more for each byte, which does not matter: a connection has its first
// packets here, not its data.
//
// A packet that waited was forwarded twice, so its time to live is one lower than that of those
// that follow it. If a way that was prepared leads back here, that is what ends the circle.
//
// # Crash and restart
//
// The device outlives the process, and so do programs on it and the routes to it. Its queue, which
// the kernel keeps with the descriptor, does not, unless a process that survives keeps that:
// [Path.Device] is for the holder. Then up to 4096 packets, some 6 MiB, wait there, later ones are
// dropped and counted by the device, and the next Open delivers all of them in order. Without it
// the device drops what comes until the next Open, as if the packets were lost on a wire. What
// waited in the process is lost in a crash; Leave gives it back to the device.
//
// Needs CAP_NET_ADMIN and CAP_NET_RAW over the fabric's namespace, CAP_SYS_ADMIN to enter it,
// /dev/net/tun and a writable /proc/sys; Linux 4.20 (SIOCGSKNS of a TUN device), else a device
// that was kept is not taken over.
package slowpath
