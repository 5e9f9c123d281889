// Package wake waits for the traffic that wakes an app whose sockets are held.
//
// A [Policy] says which traffic that is. A [Watcher] waits for it, and returns an [Event]: the
// socket, the reason and the sender. [Strongest] tells beforehand who could wake the app at all.
//
// A watcher waits by epoll on the held sockets. Connections in an accept queue have no
// descriptor. They are judged by their receive queue, which inet_diag tells, so that a probe that
// connects and hangs up wakes nothing. A silent connection wakes by its age: a probe has hung up by
// then, and a client that waits for the server's greeting has not. A packet tap tells that data may
// have come. It is open only while connections wait, so the queues are looked into once more right
// after it was opened.
package wake
