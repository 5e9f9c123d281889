// Package inject opens descriptors in the name of a process, which does not notice and does not keep
// them: those that only the process itself can get, such as a userfaultfd(2) of its memory.
//
// All threads of the process are stopped by ptrace(2), its first one is made to run the system call at
// an instruction that the process has, the descriptor is taken out (pidfd_getfd(2)) and closed in the
// process, and all go on: [Tracer.Open]. That takes 0.6 ms, and 1 ms with ten threads. All have to stand
// still, for a thread that forks meanwhile would give the descriptor to its child. A process that has
// its table of descriptors in common with another one (clone(2), CLONE_FILES, without CLONE_THREAD)
// shows it to that one for this moment.
//
// Afterwards the registers and the signal mask are as before:
//
//   - A call in which a thread was interrupted is restarted, or not, as by a cgroup's freezer:
//     registers are put back in a stop in which the kernel still decides that
//     (arch/x86/kernel/signal.c, arch_do_signal_or_restart).
//   - A restartable sequence (rseq(2)) in which it was interrupted is aborted by the kernel, as after
//     any preemption. The kernel forgets the sequence when it sees that other code runs
//     (kernel/rseq.c), so it is told again.
//   - Seccomp filters do not see the calls (PTRACE_O_SUSPEND_SECCOMP).
//   - Signals are blocked meanwhile, and wait. A SIGSTOP, which can't be blocked, stops the process when
//     it is let go of, unless a SIGCONT comes before.
//
// # A process of its own
//
// A tracer that dies sets its tracees free, with whatever their registers are at that moment. So the
// tracer is a process of its own, the same binary as the daemon ("snapctld inject", [Serve]). When the
// daemon ends it does what it has begun, and ends too.
//
// Who kills the tracer while it works harms the app: SIGKILL, and the kernel when memory is short. It
// ignores the signals that services are ended with.
//
// # What can't be stopped
//
// A process that has another tracer, whose first thread has ended, or that dispatches its system calls
// itself (PR_SET_SYSCALL_USER_DISPATCH), one with a thread that waits for a child of vfork(2), or for
// longer than a second for a disk. A process at its limit of open files can't open one more. All that
// is an error, and the process is as before.
//
// Needs CAP_SYS_PTRACE, CAP_SYS_ADMIN (for a process with seccomp filters) and Linux 5.13; x86-64, and
// processes of 64 bits.
package inject
