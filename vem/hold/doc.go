// Package hold keeps an app's live kernel sockets while no process has them.
//
// The kernel goes on serving a socket as long as one descriptor of it is open
// anywhere: it acknowledges, answers keepalives, sends what was unsent, completes
// handshakes into the accept queue and closes the window when a buffer is full.
// So a peer of a held socket notices nothing, for days if need be. The app gets the
// very same open file descriptions back. So what CRIU can't save of a socket (options,
// queues, congestion state) never has to be saved.
//
// Nouns: a [Socket] is one kernel socket and the descriptors of the app that
// lead to it; a [Set] is all that an app has. A [Verdict] says what becomes of
// one descriptor in a hibernation:
//
//	Held     the VEM keeps the kernel object: inet sockets, and unix sockets
//	         whose other end is outside of the app; and what CRIU would save in
//	         part, see [Object]
//	Saved    CRIU writes it into the snapshot and makes a new one
//	Refused  neither can: the app cannot be hibernated; the verdict says why
//
// The way of a set:
//
//	Preflight --> (freeze) --> Collect --> Widen, Arm --> Watch --> Disarm, Narrow --> Close
//	   |                          |                  |
//	   findings            *UnsupportedError      Event: wake the app
//
// Duplicating other processes' descriptors needs CAP_SYS_PTRACE over them and
// Linux 5.6 (pidfd_getfd(2)).
//
// # What is held
//
// Held are all sockets that lead out of the app, and what CRIU would save only in part. The file
// of each kind says why, and from which place in kernel or CRIU the fact comes:
//
//	object.go     eventfds and inotify instances; they share one inode, so that each is known
//	              by a descriptor of it (process and number)
//	mqueue.go     POSIX message queues, by descriptor and by the app's ipc namespace
//	lent.go       files of binds with a lock of the open file description, and files that
//	              somebody outside of the app has passed to it
//	moved.go      unix sockets whose file was renamed or linked after it was bound
//	messages.go   unix sockets inside the app in which messages wait, and what they are
//	              connected to. Nothing wakes the app by these
//	watched.go    no hold: the paths of what is watched, which CRIU would search for
//
// A lock of fcntl(2) can't be held: it belongs to the process, and ends with it. Nobody can take
// it over before, since the two would exclude each other, and whoever waits for it may be the
// first afterwards.
//
// What was held once is held every time from then on, locked or not, if it lies on a mount that
// ended with the app's earlier mount namespace: CRIU could not find it.
//
// # What wakes an app
//
// A [Watcher] waits by epoll on the held sockets. Connections in an accept queue have no
// descriptor. They are judged by their receive queue, which inet_diag tells, so that a probe that
// connects and hangs up wakes nothing. A silent connection wakes by its age: a probe has hung up by
// then, and a client that waits for the server's greeting has not. A packet tap tells that data may
// have come. It is open only while connections wait, so the queues are looked into once more right
// after it was opened.
package hold
