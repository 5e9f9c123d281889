// Package collect looks at the processes of an app, and duplicates what the VEM can hold of
// them: [App] makes the [hold.Set]. The app should be frozen, so that nothing changes meanwhile.
//
// Some of it CRIU must be told of before it looks at the app. So part of the same look can be
// had of the running app: [External], [FindLent], [FindMoved], [FindQueues]. What CRIU would lose
// in a copy of the app, [ForCopy] refuses.
//
// Duplicating other processes' descriptors needs CAP_SYS_PTRACE over them and
// Linux 5.6 (pidfd_getfd(2)).
//
// # What is held
//
// Held are all sockets that lead out of the app, and what CRIU would save only in part. The file
// of each kind says why, and from which place in kernel or CRIU the fact comes:
//
//	objects.go    eventfds and inotify instances; they share one inode, so that each is known
//	              by a descriptor of it (process and number)
//	queues.go     POSIX message queues, by descriptor and by the app's ipc namespace
//	lent.go       files of binds with a lock of the open file description, and files that
//	              somebody outside of the app has passed to it
//	outside.go    unix sockets that lead out of the app
//	moved.go      unix sockets whose file was renamed or linked after it was bound
//	messages.go   unix sockets inside the app in which messages wait, and what they are
//	              connected to. Nothing wakes the app by these
//
// A lock of fcntl(2) can't be held: it belongs to the process, and ends with it. Nobody can take
// it over before, since the two would exclude each other, and whoever waits for it may be the
// first afterwards.
//
// What was held once is held every time from then on, locked or not, if it lies on a mount that
// ended with the app's earlier mount namespace: CRIU could not find it.
package collect
