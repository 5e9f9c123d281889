// Package fastpath takes packets between the endpoints of one host past the
// fabric's router, straight from one app's device to the other's, and gives
// endpoints another address inside their namespace than outside.
//
// A packet that the kernel routes through the fabric is handled twice: once when
// it comes out of the sender's veth, once when it comes out of the receiver's. A
// small BPF program at the ingress of every fabric device looks both addresses up
// in a table and, if both are endpoints here, moves the packet to the receiving
// end at once (bpf_redirect_peer), which makes it as cheap as one veth pair. It
// only ever shortens what the kernel's routes would do; what the table does not
// know takes the routes.
//
// An endpoint with an inside address has a [Translated] device: the fabric's side
// of it is where outside and inside meet, in both directions and without state.
//
//	app               Translated device                  fabric and host
//	eth0 inside ----- ingress: source becomes outside -- routes, firewall, other
//	          ------- egress:  destination becomes ----- devices know outside only
//	                           inside
//
// Where a packet does not cross the router, the sender's program does what egress
// would have done. Translated are the addresses of IPv4 and IPv6 headers, also of
// the headers that ICMP errors quote, and with them the checksums of IPv4, TCP, UDP
// and ICMPv6, also in fragments and in segments that are not split yet (GSO).
// Whatever else a packet carries stays as it is.
//
// # Other hosts
//
// Packets for endpoints of other hosts pass the fabric, the host and their routes and
// firewalls by three more programs. The set of such endpoints, and of the ways to their
// hosts, is [Remotes]; package channel/redirect is what fills it.
//
//	app - [ep device: ingress] - host0 ] fabric - host [ snap-NETWORK: leave ] - underlay
//	app -  ep device - [host0: ingress ] fabric - host   snap-NETWORK - [underlay: arrive]
//
// ingress moves the packet into the host's namespace (bpf_redirect_peer), since a program
// can only send from devices of the namespace that the packet is in. leave puts the outer
// header on, if there is one, and sends (bpf_redirect_neigh). arrive takes it off and moves
// the packet into the fabric, where ingress finds the endpoint. No packet is routed, so the
// hop limit inside stays as it is: seen from an app the network is one hop.
//
// What the host itself sends to such endpoints does not enter the fabric: leave is on the way
// out of snap-NETWORK as well. Every host has the gateway's address there, so on the way to
// other hosts it becomes an address of the host's own, and answers to that one get the
// gateway's again, by the same translation as for inside addresses ([Remotes.SetSelf]).
//
// # Machines beyond gateways
//
// Machines that are no endpoints, and keep their addresses, are known by prefixes, of which the
// longest counts ([Remotes.SetBeyond]). Packets for them leave to a host that is a gateway, where
// arrive gives them to the host as if they came from the fabric: so that forwards them by its own
// routes and firewall. Packets from them leave by the host's device of the network as the host's own
// do, but keep their source. On every way they have an outer header, by which arrive knows which
// host sent them: what comes from a machine by a host that is no gateway for it is dropped. Nothing is
// remembered of connections.
//
//	to a machine    app - [ep device: ingress] - host0 ] fabric - host [ snap-NETWORK: leave ] - underlay
//	at the gateway  underlay [ arrive ] - snap-NETWORK - routes of the host - machine
//	and back        machine - routes of the host - [ snap-NETWORK: leave ] - underlay
//
// # Restarts
//
// Programs and maps live in the kernel as long as one device has a program, so
// nothing depends on this process. They are attached by tcx, and to kernels before 6.6 as
// filters of tc (see package tcx); a device holds either by itself. After a restart a new
// [Table] replaces the programs, one at a time and without a gap. It goes on with the [Remotes]
// of the earlier run, found through the program of the uplink, so that no packet finds an
// empty set.
//
// Needs CAP_BPF (or CAP_SYS_ADMIN) and CAP_NET_ADMIN; Linux 5.10 with
// CONFIG_NET_CLS_BPF and CONFIG_NET_SCH_INGRESS, or 6.6 and CAP_SYS_ADMIN. Other hosts need Linux 5.11
// (bpf_ktime_get_coarse_ns), and 6.3 to carry IPv6 over IPv4 or the reverse
// (BPF_F_ADJ_ROOM_DECAP_L3_IPV4); to find an earlier run's maps takes CAP_SYS_ADMIN.
package fastpath
