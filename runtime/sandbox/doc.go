// Package sandbox makes the place in which an app lives: its directories and
// mounts, its cgroup, its namespaces and its first process.
//
// What outlives the processes (overlay root, /dev with /dev/shm, cgroup,
// network namespace) is made by [Sandbox.Enclose] and [Sandbox.Furnish] in the daemon's
// own mount namespace, so that an app can be hibernated and restored onto it
// any number of times:
//
//	STATE/apps/NAME/storage/{upper,work}   the app's writes, over the lower root
//	STATE/apps/NAME/log                    stdout and stderr, append only
//	RUN/apps/NAME/root                     the overlay
//	RUN/apps/NAME/dev                      a tmpfs: device nodes, shm
//	RUN/apps/NAME/ns/net                   the bound network namespace
//	RUN/apps/NAME/{ns/ipc,mqueue}          the same, see [Sandbox.KeepIPC]
//
// [Launch.Run] runs the program itself as process 1 of new pid, mount, ipc, uts,
// cgroup and time namespaces. All of it needs CAP_SYS_ADMIN and Linux 5.14
// (cgroup.kill).
//
// # What CRIU does not see
//
// /tmp, /var/tmp and /run are empty directories of the overlay, so that CRIU has no tmpfs to save.
// The daemon's own directories are empty too, wherever they are. At /sys/fs/cgroup an app has its
// own cgroup, read-only, as bind mounts of the host's (package cgroup).
//
// CRIU is told that /dev, /sys/fs/cgroup, binds, the log and the network namespace are external,
// and to ignore cgroups.
//
//   - For a restore it is started in the app's cgroup, in a cgroup namespace that has that cgroup
//     for its root, and in the app's network namespace; the tasks inherit all three. CRIU is born
//     there and not moved, since a move takes the kernel 10 ms. See [Sandbox.StartInside].
//   - For a dump it is started in the app's network namespace. From outside, CRIU would dump the
//     connection tracking of an external network namespace too, twice and through the host-wide
//     table, while the app stands still. See [Sandbox.StartBeside].
//
// An app with POSIX message queues keeps its ipc namespace until it is woken, see
// [Sandbox.KeepIPC]: CRIU is started in it both times and leaves it alone, and /dev/mqueue is an
// external mount. System V objects can't be in it then: CRIU would not save their mappings, and the
// kernel would carry out their SEM_UNDO when the processes end.
//
// # In two parts
//
// What processes are born in, cgroup and network namespace, is made first (Enclose). Then the app's
// first process, or CRIU, is started. To execute and link takes either of them 4 ms, and meanwhile
// the rest is made: mounts (Furnish), files, the check of the snapshot, the view of its images.
// CRIU is told what to restore when all of that has succeeded. The link to the network is made
// while CRIU makes the other namespaces; CRIU waits for that in its post-setup-namespaces
// notification, before it makes sockets. A stock of namespaces made ahead was left out: what is
// still waited for is 0.5 ms of a network namespace, beside 0.9 ms of the cgroups.
//
// # How layers come above the lower root
//
// [Stack] decides this, once for each lower root, by trying it:
//
//	state on another file system    upper / layer n / ... / layer 1 / lower root
//	state inside the lower root     upper / stubs of layers n..1    / lower root
//	neither (no metacopy)           upper with a copy / lower root; doctor and the log tell
//
// Package layer says what layers and stubs are. An app that has layers always has metacopy=on.
package sandbox
