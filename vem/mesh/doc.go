// Package mesh connects the networks of this host with those of the other hosts of an
// installation. It puts the parts together, of which each network has its own:
//
//	slowpath   where packets wait that have no way yet
//	peering    which asks the directory who has their endpoint, and agrees with that host
//	channel    and its modules, which have the kernel carry the packets there from then on
//
// What it needs to know it is told: who has which endpoint, which other hosts there are, and at
// which addresses of the underlay this host and the others are.
package mesh
