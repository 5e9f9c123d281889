// Package peering has two hosts agree about the data channels between them, and about who reaches
// which endpoint over them.
//
// A packet for an endpoint of another host that has no way yet waits in the slow path
// ([slowpath.Resolver]), which asks a [Network] of this package:
//
//	A: slow path         A: Network                    B: Network
//	first packet ------> who has it? (directory)
//	                     Connect, with the sender ---> is it ours, with that epoch?
//	                                                   channel up, route back to the sender
//	                     channel up, route   <-------- channel
//	packets go out <---- route open for all
//
// Both hosts then have the same in their tables: one channel for each network and host, and the
// endpoints that each of them reaches over it. No packet of an open route comes here.
//
// # Generations
//
// Each change of a channel gives it a higher generation, and the higher one wins, whatever order
// calls come in. Both hosts may begin a channel at the same moment; then both have done the same
// in the end: of equal generations that of the host whose name comes first in the alphabet wins.
// A call that was cut off may have happened on the other side; done again it changes nothing.
//
// # Locks
//
// A link, which is what this host has in common with another one, has a turn: whoever changes it
// in the kernel has the turn. Nobody has it while the other host is asked, since that one may be
// asking at the same moment. The network's mutex guards maps, and is held over nothing.
package peering
