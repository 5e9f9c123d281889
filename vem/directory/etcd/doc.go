// Package etcd is the [directory.Store] of real installations: it keeps the directory in an etcd
// cluster, version 3.4 or later, that snapctl runs beside its daemons (package member) or that an
// operator runs.
//
// All keys lie below one prefix, so that several installations, and other programs, share a
// cluster. The revisions are those of the whole cluster.
//
// What etcd and its client do, and this package makes up for (measured with 3.7.3):
//
//   - A call without a deadline hangs while a member stands still, and a write whose deadline has
//     passed may still happen. So each call here has a deadline, reads are tried more than once
//     within it, and writes never are.
//   - A member that stood still for longer than the time of a lease revokes the lease as soon as
//     it goes on, although the holder kept renewing it. So KeepAlive puts its entry again.
//   - clientv3.New connects to nothing, and a call over a connection that can't be made ends by its
//     deadline, without the reason. So [Open] makes a call that fails at once and says why.
//   - A watch of a revision that is still to come waits for it without a word. After a directory
//     was put back to an older state it would miss all changes until then. So the store compares
//     the revision of each answer with those before, and says [directory.ErrBehind].
package etcd
