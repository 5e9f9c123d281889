// Package control is the control channel: what the VEMs of an installation ask each other, by
// gRPC over mutual TLS 1.3, on one TCP port ([DefaultPort]).
//
//	Peers.Connect ──> link to host B ──> TCP, TLS ──> door of B ──> limits ──> Checks ──> Channels.Connect
//	 (package user)    one connection     the first      who is      what a     no bad     (package user)
//	                   for calls, one     address that   it?         host may   value
//	                   for streams        answers                    have       passes
//
// A [Server] answers what other hosts ask, by the [Handlers] that it is given; [Peers] asks
// other hosts. Both know nothing of what is done with it: all values are plain, and are checked
// before a handler or a caller sees them.
//
// # Calls
//
// Each call has a deadline: the caller's, or [DefaultTimeout]. If the connection is lost in the
// middle of it, nobody knows whether it was done; so it is made again until its deadline, under
// the same [ID], and the host that was asked remembers what it answered to it: it is done once. A
// caller that gives up and asks again later says the same ID again. A host that was started
// again has forgotten its answers: then the generation tells that it was done before. A handler
// that returns an error has done nothing.
//
// A handler's context ends when the caller gives up or the connection is lost.
//
// # Versions
//
// Hosts greet each other on each new connection (Hello), and use the lower of the newest
// protocols that both know. If there is none, both logs say so, and calls return a
// [VersionError].
//
// # Streams
//
// A [Stream] carries messages of a kind that this package does not know, such as those of a
// move. Streams have a connection of their own: a message of a call then never waits in the
// kernel's send buffer behind the data of a stream. (Beside four streams that send as much as
// they can, on a loaded machine with two cores, half of the calls took 100 us, and 2 ms when they
// shared the connection; 65 us without streams. See BenchmarkConnect.) No side keeps more than a window
// ([StreamWindow]) of what the other has not read, and a message that the other does not read
// for [StallTimeout] ends the stream.
//
// # Memory
//
// A host of the installation can make a server keep a window ([StreamWindow]) and a message
// ([message.MaxMessage]) for each call and stream of its [Limits], one table of
// [message.MaxRoutes] routes, and 1 MiB of remembered answers: some 100 MiB. A stranger can make
// it keep a TLS handshake, or one call, for some seconds.
package control
