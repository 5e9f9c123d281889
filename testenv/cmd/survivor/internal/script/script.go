// Package script has Python scripts, each of which makes one thing for the survivor and later checks
// it. They are for what Go's runtime gets in the way of: fork without exec, signals of the whole
// process, libc's own semaphores and queues.
//
// A script begins with [Start]. It says "ready" when the thing is there, waits for a line, and then
// says "ok" or what is wrong.
package script

// Start has what all scripts use.
const Start = `
import ctypes, errno, mmap, os, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def ready():
    print("ready", flush=True)
    return sys.stdin.readline().strip()
def must(what, got, want):
    if got != want:
        print("%s is %r, want %r" % (what, got, want), flush=True)
        sys.stdin.read()
def ok():
    print("ok", flush=True)
    sys.stdin.read()
def libc_ok(r):
    if r == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return r
`
