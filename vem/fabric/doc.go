// Package fabric wires apps together: one network namespace per virtual network
// per host, the fabric, to which every app and the host are connected by a veth
// pair each.
//
//	app netns            fabric netns                 host netns
//	eth0 10.77.0.7/32 -- ep0a4d0007
//	                       | routes 10.77.0.7/32 ...
//	eth0 10.77.0.8/32 -- ep0a4d0008      host0 ------ snap-default 10.77.0.1
//	                       | unreachable 10.77.0.0/16   | route 10.77.0.0/16
//	                                                    | nft table snapctl-default
//
// It is routed, not bridged: an app's address is a /32 (and a /128) with a default
// route to the link-local 169.254.1.1 (fe80::1), so addresses say nothing about
// where an endpoint is, no broadcast exists, and no ARP or neighbour discovery
// happens (every neighbour is a permanent entry). The host's own routing table
// gets one route per address family, its firewall one table; everything else is
// inside the fabric and goes away with it.
//
// An endpoint may have other addresses inside its namespace than outside, so that
// any number of copies of an app each live at the address that was frozen with it:
//
//	app netns             fabric netns
//	eth0 10.77.0.7/32 --- ep0a4d0017   route 10.77.0.23/32
//	eth0 10.77.0.7/32 --- ep0a4d0018   route 10.77.0.24/32
//
// BPF programs on the fabric's end of the link translate, without state: what comes
// from the app gets the outside source, and what goes to it the inside destination
// (see [fastpath]). Everything else in the fabric and on the host knows the outside
// addresses only: routes, published ports, masquerade and peers. There is nothing to
// save, to move, or to run full. The mapping is kept as the alias of the fabric's device
// (`ip link` shows it): it lives as long as the link, and a restarted daemon finds it there.
//
// An app with an inside address sees itself at that address, and others at their outside
// ones. If it connects to its own outside address it reaches itself. A running original
// has that inside address for its outside one: original and clone can't reach each other,
// since each takes the address for its own. What a clone sends from any other source is
// dropped.
// Addresses in payloads are not translated. Without BPF there are no inside addresses; all
// else works through the kernel's routes.
//
// Nothing here depends on a running process: the state is the kernel's, kept by a
// bind mount in [Config.Dir], and [Open] adopts it after a restart, repairing what
// an interrupted run left half-made. All steps are idempotent.
//
// Needs CAP_NET_ADMIN over the namespaces, CAP_SYS_ADMIN to make and enter them,
// and a writable /proc/sys.
package fabric
