// Package routes has a network's routes to endpoints of other hosts, in the kernel of this one, for
// channels that need no BPF.
//
// Each names a nexthop object (ip-nexthop(8)), which says where packets go: one change of that is
// for all routes which name it, however many there are. Opening routes are in a table of their own,
// into which what the slow path writes back looks first, by a rule for packets from its device.
// Open ones are in the main table. There they come after those of the fabric: an endpoint of this
// host is found first.
//
// Objects and routes are gone when their device is, and the next process finds them.
//
// Needs CAP_NET_ADMIN, and Linux 5.3.
package routes
