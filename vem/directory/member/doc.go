// Package member runs a member of the directory's etcd cluster beside the daemon.
//
// The member is a process of its own, the program snapctl-directory, since etcd's server ends its
// process when the disk is full (seen with 3.7.3), and the daemon must live. The process outlives
// the daemon that started it: the next daemon finds it and goes on with it.
//
//	daemon: Member ──starts, watches──▶ snapctl-directory serve ◀──peers──▶ other hosts' members
//	   └──client──▶ vem/directory/etcd, for the directory's entries
//
// All that a member has lies in one folder, [Config.Dir]:
//
//	config.json    what the program is started with (written by the daemon)
//	lock           byte 0 is locked while a process runs, byte 1 while it serves
//	identity.json  which member of which cluster this is, once it has served: a member that has an
//	               identity and no data is not started as a new one
//	data/          etcd's; data.building and data.ready while a backup is being restored
//	data.replaced-TIME  what was there before a backup was restored; for people to remove
//	log, log.old   what the process writes; bounded
//
// A process that ends is started again, after pauses that grow to a minute, until [Member.Stop]:
//
//	stopped ──Start──▶ starting ──serves──▶ serving
//	   ▲                ▲     │ ends           │ ends
//	   └──Stop──────    │     ▼                ▼
//	                    └── ended: why, from its log
//
// Nothing in snapctl depends on a member that runs: without it, what works goes on.
package member
