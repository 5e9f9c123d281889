// Package proc looks at other processes: which descriptors they have and what these lead to,
// which mounts they see, which namespaces they are in.
//
// [Duplicate] opens what another process has open, for as long as it is looked at or for good.
// It needs CAP_SYS_PTRACE over that process and Linux 5.6 (pidfd_getfd(2)). The rest reads /proc
// alone. A process that has ended, whenever it is noticed, is an error wrapping [ErrGone].
package proc
