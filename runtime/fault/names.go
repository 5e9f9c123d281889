package fault

import "slices"

// Name is the name of a point: the operation, a dot, and where in it.
type Name string

// The points, in the order in which an operation meets them. A new one is also
// added to Names.
const (
	CreateAfterRecord  Name = "create.after-record"  // the app is recorded, nothing is made
	CreateAfterSandbox Name = "create.after-sandbox" // mounts, cgroup and namespaces are made
	CreateAfterAttach  Name = "create.after-attach"  // the endpoint is attached
	CreateAfterStart   Name = "create.after-start"   // the program runs, the app is not yet recorded as running

	HibernateAfterRecord  Name = "hibernate.after-record"  // the intent is recorded
	HibernateAfterFreeze  Name = "hibernate.after-freeze"  // the cgroup is frozen
	HibernateAfterCollect Name = "hibernate.after-collect" // the daemon has duplicates of the sockets
	HibernateAfterHold    Name = "hibernate.after-hold"    // the holder has the sockets
	HibernateAfterDump    Name = "hibernate.after-dump"    // CRIU has saved the processes and waits for an answer
	HibernateAfterAdopt   Name = "hibernate.after-adopt"   // the memory files are in their store, no manifest names them
	HibernateAfterCommit  Name = "hibernate.after-commit"  // the snapshot is committed, the processes still exist
	HibernateAfterKill    Name = "hibernate.after-kill"    // the processes are gone
	HibernateAfterArm     Name = "hibernate.after-arm"     // the wake policy is armed

	WakeAfterRecord   Name = "wake.after-record"   // it is decided, and on the disk the app is held
	WakeBeforeRestore Name = "wake.before-restore" // the view of the images is made, CRIU is not started
	WakeAfterResuming Name = "wake.after-resuming" // the memory files are recorded, the processes are about to run
	WakeAfterRestore  Name = "wake.after-restore"  // the processes run
	WakeAfterCommit   Name = "wake.after-commit"   // the app is recorded as running, the holder still has the sockets

	DropBeforeRemoval Name = "drop.before-removal" // an app was woken; its images have lost their name, and are not removed

	SnapshotInRepair     Name = "snapshot.in-repair"     // sockets of connections inside the app, if there are any, are in repair mode
	SnapshotAfterDump    Name = "snapshot.after-dump"    // CRIU has saved the processes
	SnapshotBeforeCommit Name = "snapshot.before-commit" // all files are written, and not yet renamed
	SnapshotAfterAdopt   Name = "snapshot.after-adopt"   // the memory files are in their store, no manifest names them
	SnapshotAfterCommit  Name = "snapshot.after-commit"  // the snapshot is there for good

	RestackAfterRecord Name = "restack.after-record" // the layer is recorded that a held app's files become
	RestackAfterMove   Name = "restack.after-move"   // they are the layer
	RestackAfterSwitch Name = "restack.after-switch" // the app is recorded to have it below its files, its root is not mounted

	RestoreAfterRecord  Name = "restore.after-record"  // the new app is recorded
	RestoreAfterSandbox Name = "restore.after-sandbox" // mounts, cgroup and namespaces are made
	RestoreAfterRestore Name = "restore.after-restore" // the processes run

	TemplateAfterRecord   Name = "template.after-record"   // the intent is recorded
	TemplateAfterSnapshot Name = "template.after-snapshot" // the snapshot that it is made of is there
	TemplateAfterCommit   Name = "template.after-commit"   // the template is recorded

	CloneAfterRecord Name = "clone.after-record" // a clone is recorded, nothing is made
	CloneAfterRun    Name = "clone.after-run"    // its processes run, it has no traffic yet
	CloneAfterCommit Name = "clone.after-commit" // it is recorded as running, others of the request may not be
	CloneBeforeEnd   Name = "clone.before-end"   // all of the request are, which is not over

	PoolAfterRecord  Name = "pool.after-record"  // a clone for the pool is recorded, nothing is made
	PoolAfterRestore Name = "pool.after-restore" // its processes are there, frozen
	PoolAfterCommit  Name = "pool.after-commit"  // it is recorded as ready

	HandoutAfterRecord Name = "handout.after-record" // a clone of the pool has got its name
	HandoutAfterThaw   Name = "handout.after-thaw"   // its processes run
	HandoutAfterCommit Name = "handout.after-commit" // it is recorded as running

	RemoveAfterRecord  Name = "remove.after-record"  // the intent is recorded
	RemoveAfterKill    Name = "remove.after-kill"    // the processes are gone
	RemoveAfterDetach  Name = "remove.after-detach"  // the endpoint is detached
	RemoveAfterSandbox Name = "remove.after-sandbox" // mounts, cgroup and namespaces are gone
	RemoveBeforeSweep  Name = "remove.before-sweep"  // the record is gone, the memory files that it named are not
)

// names lists all constants above.
var names = []Name{
	CreateAfterRecord, CreateAfterSandbox, CreateAfterAttach, CreateAfterStart,
	HibernateAfterRecord, HibernateAfterFreeze, HibernateAfterCollect, HibernateAfterHold,
	HibernateAfterDump, HibernateAfterAdopt, HibernateAfterCommit, HibernateAfterKill, HibernateAfterArm,
	WakeAfterRecord, WakeBeforeRestore, WakeAfterResuming, WakeAfterRestore, WakeAfterCommit, DropBeforeRemoval,
	SnapshotInRepair, SnapshotAfterDump, SnapshotBeforeCommit, SnapshotAfterAdopt, SnapshotAfterCommit,
	RestackAfterRecord, RestackAfterMove, RestackAfterSwitch,
	RestoreAfterRecord, RestoreAfterSandbox, RestoreAfterRestore,
	TemplateAfterRecord, TemplateAfterSnapshot, TemplateAfterCommit,
	CloneAfterRecord, CloneAfterRun, CloneAfterCommit, CloneBeforeEnd,
	PoolAfterRecord, PoolAfterRestore, PoolAfterCommit,
	HandoutAfterRecord, HandoutAfterThaw, HandoutAfterCommit,
	RemoveAfterRecord, RemoveAfterKill, RemoveAfterDetach, RemoveAfterSandbox, RemoveBeforeSweep,
}

// Names lists the points, for a test to visit each.
func Names() []Name { return slices.Clone(names) }

func known(n Name) bool { return slices.Contains(names, n) }
