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
// lead to it; an [Object] is one of the other kernel objects that are held; a [Set]
// is all that an app has. A [Verdict] says what becomes of one descriptor in a
// hibernation:
//
//	Held     the VEM keeps the kernel object: inet sockets, and unix sockets
//	         whose other end is outside of the app; and what CRIU would save in
//	         part, see [Object]
//	Saved    CRIU writes it into the snapshot and makes a new one
//	Refused  neither can: the app cannot be hibernated; the verdict says why
//
// The way of a set:
//
//	  vet --> (freeze) --> collect --> Widen, Arm --> wake --> Disarm, Narrow --> Close
//	   |                     |                         |
//	findings         *UnsupportedError             Event: wake the app
//
// Package hold itself has the set, and decides about a descriptor of which all is known. Those
// that look at the app's processes are packages of their own:
//
//	vet        the preflight: tells before the freeze what can't be held or saved
//	collect    makes a set of what the frozen processes have open
//	fsnotify   inotify and fanotify instances, and where the watched files are
//	mqueue     POSIX message queues
//	proc       what all of them ask of other processes: descriptors, mounts, namespaces
//	sockdiag   which sockets a network namespace has
//
// Package vem/wake waits for the traffic that wakes the app.
package hold
