package hold

// inotifyLink is what /proc/PID/fd/N shows of an inotify instance.
const inotifyLink = "anon_inode:inotify"

// fanotifyLink is what /proc/PID/fd/N shows of a fanotify group. CRIU saves its
// marks alone (fsnotify.c, dump_one_fanotify), and it can't be held: marks of
// mounts end with the app's mount namespace.
const fanotifyLink = "anon_inode:[fanotify]"
