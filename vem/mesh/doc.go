// Package mesh connects the networks of this host with those of the other hosts of an
// installation. It puts the parts together, of which each network has its own:
//
//	slowpath   where packets wait that have no way yet
//	peering    which asks the directory who has their endpoint, and agrees with that host
//	channel    and its modules, which have the kernel carry the packets there from then on
//
// And probe finds out which ways to another host work, while there is a channel to it. A channel
// takes the best way that works, and leaves one that does not, by itself: both hosts put the ways
// between them into the same order, and whoever finds a better one than that of the channel asks
// the other host to agree to it. What a way is found to carry is the size of the channel.
//
// What it needs to know it is told: who has which endpoint, which other hosts there are, and at
// which addresses of the underlay this host and the others are.
package mesh
