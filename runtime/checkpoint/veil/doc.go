// Package veil hides the TCP connections of a frozen app from CRIU, which needs some 75 us for each
// while the app stands still: it has the descriptor sent by its parasite, and asks for thirty options.
// None of that is used, for whoever revives the app gives it the live socket, or a closed one.
//
//	Find ──▶ Veil.Hide ──▶ (CRIU saves the processes) ──▶ Veil.Complete
//
// CRIU learns from /proc/PID/fd which descriptors a process has (criu/cr-dump.c, collect_fds). So a
// directory of ours is mounted there, which has all but the connections: in a mount namespace that
// nobody but this CRIU is in, and that ends with it. Nothing is done to the app or its sockets, and
// nothing has to be put back, whatever ends or fails meanwhile. What CRIU did not see is then added to
// its images, package absent, so that a restore knows nothing of all this.
//
// An epoll instance that watches what CRIU does not see is hidden too, for CRIU would look for it and
// fail (criu/eventpoll.c, flush_eventpoll_dinfo_queue).
//
// # What is not hidden
//
// CRIU saves as ever sockets that are no connections, of which there are few; connections that send
// signals (F_SETOWN), or that processes have in a table of descriptors that they share; and what is
// watched by an epoll instance that is watched itself, or one that watches something by a number at
// which one of those who have the instance has something else: CRIU finds out itself what it is.
//
// Of an app in whose unix sockets descriptors wait nothing is hidden: CRIU finds them there, and one may
// be an epoll instance that watches connections.
//
// # Tried and left out
//
// The connections were taken out of the processes instead: by system calls that are injected, with
// the watches taken away and added again by a thread of ours that had the same files at the same
// numbers, a record for the next daemon, and the holder as the owner meanwhile. It worked, and was as
// slow as CRIU: the holder, the calls and the way back cost as much for each connection as CRIU does.
//
// CRIU's --external has no name for inet sockets (sk-inet.c, inet_desc_ops), and the parasite has sent
// a descriptor before it is looked at.
package veil
