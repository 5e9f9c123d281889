// Package inject runs system calls in processes that stand still: those of an app, in the name of the
// app, which does not notice. That is how descriptors are taken out of a process and put back, and how
// its memory is mapped anew.
//
// A process is stopped by ptrace(2) and made to run a short program of ours, which makes one call after
// the other from a table and writes down what each returns. Its registers, its signal mask and the
// memory that it lent are as before when it is let go of:
//
//   - A call in which it was interrupted is restarted, or not, as without us: registers are put back
//     in a stop in which the kernel still decides that (arch/x86/kernel/signal.c,
//     arch_do_signal_or_restart).
//   - A restartable sequence (rseq(2)) in which it was interrupted is aborted by the kernel, as after
//     any preemption. The kernel forgets the sequence when it sees that other code runs
//     (kernel/rseq.c), so it is told again.
//   - Seccomp filters do not see the calls (PTRACE_O_SUSPEND_SECCOMP).
//   - Signals are blocked meanwhile, and wait. A SIGSTOP, which can't be blocked, stops the process when
//     it is let go of, unless a SIGCONT comes before.
//
// # Two ways to stop
//
// With a cgroup, which has to be frozen, all threads of the processes are stopped by ptrace, then the
// cgroup is thawed, for a call that is injected into a frozen thread never begins. It is frozen again
// before ptrace lets go. So no code of the app runs from the first call to the last.
//
// Without one, one thread of each process is stopped and all others run on.
//
// # A process of its own
//
// A tracer that dies sets its tracees free, with whatever their registers are at that moment. So the
// tracer is a process of its own, the same binary as the daemon ("snapctld inject", [Serve]). When the
// daemon ends it puts the processes back as they were, freezes the cgroup, lets go, and ends. What was
// done by calls stays done: who closes a descriptor of an app has to have it on record before.
//
// Who kills the tracer while it works harms the app: SIGKILL, and the kernel when memory is short. It
// ignores the signals that services are ended with.
//
// # What can't be stopped
//
// A process that has another tracer, whose first thread has ended, or that dispatches its system calls
// itself (PR_SET_SYSCALL_USER_DISPATCH), and a thread that waits for a child of vfork(2). A process at
// its limit of open files, or of memory, can't lend what calls need. All that is an error before the
// first call.
//
// Needs CAP_SYS_PTRACE, CAP_SYS_ADMIN (for a process with seccomp filters) and Linux 5.13; x86-64, and
// processes of 64 bits.
package inject
