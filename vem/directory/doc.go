// Package directory is what the hosts of one installation know in common: which host owns
// which endpoint, with which epoch; which hosts there are, and where they are; which networks
// there are, and which host may give out which of their addresses.
//
// It lies in a [Store], which is etcd (package etcd below this one), or a fake in memory for
// tests. One host alone needs none of it.
//
//	Directory   reads it: hosts, networks, who owns an endpoint
//	Session     what one host may write, from Begin on until another session of it begins
//	Cache       what one host knows of all that, also while the store can't be reached
//	Blocks      the addresses that one host may give out without asking
//
// # Who owns an endpoint
//
// Each endpoint has one record, which says who owns it and with which epoch. The record changes
// by compare-and-swap and by nothing else: no time that runs out takes an endpoint from its
// owner. The functions of ownership.go say which changes there are:
//
//	(none) --Claim--> running <--Update--> held, moving to T --Transfer by the owner--> T's, epoch+1
//	                     any state --Takeover from a dead host--> another's, epoch+1
//	                     any state --Release by the owner--> (none)
//
// A host lets packets of an endpoint out only with a [Permit]. It gets one from
// [Session.Confirm], which reads after the session has begun that the record still names the
// host, with the epoch of the host's copy; or when its claim has happened. A new endpoint whose
// address is in a block of the host, and of which the host knows that nobody has had it since it was
// free, gets a permit before it is claimed. The permit holds as long as the host runs without a
// break (one boot), also while the directory can't be reached: so a partition ends no app. A
// host that was restarted has no permits, and its copies stay stopped until it has reached the
// directory, and has seen whether they were taken over.
//
// So whoever takes an endpoint over from a dead host promises one thing: no copy that ran on the
// host when it was lost runs on. That is so if the host was powered off, has crashed, or was
// restarted. It is not so if the host is only cut off, paused, or suspended: then it must be
// powered off first. The directory refuses while the host is seen, but it can't tell a host that
// is cut off from a dead one.
//
// A commit whose answer did not come may happen later. Therefore each host has a session: an
// entry whose revision is a condition of all that the host writes. To write the session's entry
// anew makes void all that the host has sent before and that has not happened yet. It is done
// when the daemon starts, and after each answer that did not come; what is read after that stays
// true. What makes a record writes another entry of the host with it, so that it can't happen
// twice. A takeover has the dead host's session among its conditions: if the host comes back
// before a takeover that is under way has happened, it does not happen any more.
package directory
