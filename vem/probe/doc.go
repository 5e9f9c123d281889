// Package probe finds out which ways between this host and others work: a way is a pair of
// addresses on the underlay, one of this host and one of the other.
//
//	this host                                      the other host
//	Prober --- ask: number, size, padding, MAC ---> Prober
//	       <-- answer: the same number, MAC -------
//
// Each second ([Options].Interval) a small datagram asks for an echo by each way, from a socket
// that is bound to the way's own address and device. A way works only if the echo came back: so a
// way that carries packets in one direction only is found too, by both hosts. Who has no way to
// probe sends nothing.
//
// # Health
//
// An echo is missed that has not come after half an interval, or after four round trips if that
// is longer. Then the next ask goes out at once. The way is [Down] after three in a row; the more
// a way usually loses the more it takes, up to 16, so that loss alone does not bring it down. It
// is [Up] again with the first echo, but [Way.Steady] only after 20 in a row, and after twice as
// many each time that it goes down again: see [Choose].
//
//	Unknown --echo--> Up --a quarter lost--> Lossy --steady--> Up
//	Unknown, Up, Lossy --3 to 16 missed--> Down --echo--> Up
//
// # Size
//
// Asks are padded to find the largest packet that a way carries, and go out with "don't fragment":
// first several sizes at once, then those between the largest that came through and the smallest
// that did not (the idea is that of RFC 8899). A small ask goes out after them: only if that one is
// answered in time, what is not says something of sizes. What routers say about sizes is not believed, and
// not needed. The size that was found is confirmed now and then, and larger ones are tried again.
//
// # Who is answered
//
// Both hosts have a [Key] from their control connection, by the exporter of TLS (RFC 8446, 7.5);
// it names the host that asks. An ask is answered if its MAC is right, which covers the addresses
// of the way as well, and its number is new (a window as in RFC 6479). Nothing else is answered,
// or changes anything. An answer is as small as the smallest ask, so nobody can have a host send
// more bytes than it was sent; and a host that asks too much is not answered.
//
// The package needs no capability: binding a socket to a device takes none since Linux 5.7.
package probe
