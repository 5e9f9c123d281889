// Package handover makes the sockets that are held of an app again in the app's network
// namespace on another host.
//
//	   source host                                   target host
//	Begin, Leaving.Still
//	   │ (gate closes)
//	Leaving.Save ──▶ Saved, Encode ──▶ Decode, Restore ──▶ Restored.Set
//	   │                                  │ (gate opens)
//	GoOn, if it is called off         Restored.Release
//
// While nobody has gone back or on, no packet may get into either namespace, nor out of it:
// closing the gate is the caller's task. Begin may be called before it closes. After Save
// the connections of the source are in repair mode (TCP_REPAIR): closing the last
// descriptor of each tells nobody, and GoOn has them go on as if nothing had been. After
// Restore the sockets are there and send nothing, and Release lets them.
//
// A daemon that is killed leaves nothing that a later one could not finish or undo, but for clients that
// wait to be accepted, if it is killed in the milliseconds between Save and when the caller has written
// down what that returned: these find their connections reset. At the
// source it gets the set from the holder and calls [GoOn] with the list that
// [Leaving.Undo] gave before Save, after [Return] if the caller has kept what Save gave. At
// the target it gets the restored set from the holder
// and calls [Resume] with the Saved that the caller has kept; releasing again does no harm.
//
// # What moves
//
// TCP connections as package tcprepair can save them, in all states between established and
// closed, both ends of those that lead from the app into the app; and all other sockets of
// IPv4 and IPv6 as package plain can. Of what is refused [Check] tells the reason before.
//
// A connection that the app is about to open (SYN_SENT) is opened from the target, with the same
// numbers: the other end takes it for the same client that tries again.
//
// A connection whose other end has closed its stream can't be made so with TCP_REPAIR
// alone: Release has the new socket receive the end of the stream once more (package forge).
//
// A program of a host, or a machine that appears as it, is at one address for apps on that host
// and at another one for all others: [Saved.Readdress] has the sockets know the right one.
//
// # Clients that wait to be accepted
//
// The app sleeps when it moves, so it can't accept them, and they have no descriptor. Save
// accepts them in its place, and saves them as it does others. At the target they wait at the
// new listener as they did at the old one, with what they have sent, and the app gets them from
// accept(2) in their order: package backlog says how, and that it needs Linux 6.9. On an older
// kernel Check refuses the listener while clients wait, and Save fails with [ErrUnaccepted].
//
// What was thought of besides: to hand the app an accepted socket, which is a descriptor that
// no accept(2) returns; a handshake that is forged as a whole, after which both ends number
// their streams otherwise, and TCP_REPAIR does not reach a socket that waits; SYN cookies of
// the kernel's own, whose numbers are made of a secret and the time.
//
// Handshakes that have begun when the gate closes are the last of it: the client takes the
// connection for established as soon as it has an answer, and what it sends then would be
// reset at the target, where nobody knows of it. So [Leaving.Still] waits for these, and keeps
// other clients away meanwhile.
//
// # What does not
//
//   - Unix sockets: those that the app's images describe CRIU makes anew, so that they are
//     not in the restored set. One with a peer outside of the app is refused, and one in
//     which messages or clients wait.
//   - Objects that are no sockets (hold.Object) are not in the restored set: they are
//     made as for a copy of the app; [hold.Set.Copyable] says which can't be.
//   - Connections in TIME_WAIT; and handshakes that are not over after [Leaving.Still]: their
//     clients are reset if they had the answer already, and else try again.
//   - The congestion state (Saved.Window is a hint for the route), the time at which a
//     datagram arrived, and what package tcprepair lists.
//   - An error that a socket for datagrams was told of by ICMP, and that the program has not
//     read; that sending alone was shut down for such a socket, which nothing tells; and of a
//     signal that says which descriptor is ready (O_ASYNC with F_SETSIG), the right number.
//   - An empty datagram, if it waits in a UDP socket that was saved before and went on:
//     the kernel marks it as seen (net/core/datagram.c, __skb_try_recv_from_queue).
//
// Needs CAP_NET_ADMIN and CAP_NET_RAW over the namespaces, and Linux 5.14.
package handover
