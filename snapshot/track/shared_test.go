package track_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

const sharedAt, sharedPages = 0x2000_0000_0000, 64

// shared is memory that "shares" and the program that it becomes have at one address.
func shared() {
	at, _, errno := unix.Syscall6(unix.SYS_MMAP, sharedAt, sharedPages*pageSize, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE, ^uintptr(0), 0)
	if errno != 0 {
		panic(errno)
	}
	for i := range uintptr(sharedPages) {
		*(*byte)(unsafe.Add(unsafe.Pointer(nil), at+i*pageSize)) = 1
	}
}

func init() { //nolint:gochecknoinits // beside the others
	programs["shared"] = func() {
		shared()
		say("ready")
	}
	// shares makes a process that has the same memory, as one of vfork(2) has. When that reads a byte it
	// executes another program.
	programs["shares"] = func() {
		shared()
		code, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		must(err)
		stack, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		must(err)
		var args []*byte
		for _, a := range []string{"program", programCommand, "shared"} {
			arg, err := unix.BytePtrFromString(a)
			must(err)
			args = append(args, arg)
		}
		args = append(args, nil)
		exe, err := unix.BytePtrFromString("/proc/self/exe")
		must(err)
		c := code[:0]
		call := func(number uint32, x, y, z uint64) {
			c = binary.LittleEndian.AppendUint32(append(c, 0xb8), number)  // mov eax, number
			c = binary.LittleEndian.AppendUint64(append(c, 0x48, 0xbf), x) // mov rdi, x
			c = binary.LittleEndian.AppendUint64(append(c, 0x48, 0xbe), y) // mov rsi, y
			c = binary.LittleEndian.AppendUint64(append(c, 0x48, 0xba), z) // mov rdx, z
			c = append(c, 0x0f, 0x05)                                      // syscall
		}
		call(unix.SYS_READ, 0, uint64(address(stack)), 1)
		call(unix.SYS_EXECVE, uint64(uintptr(unsafe.Pointer(exe))), uint64(uintptr(unsafe.Pointer(&args[0]))), uint64(uintptr(unsafe.Pointer(&args[3]))))
		top := pageSize / 2 // where the call returns to
		binary.LittleEndian.PutUint64(stack[top:], uint64(address(code)))
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_VM|uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&stack[top])), 0, 0, 0, 0)
		if errno != 0 {
			panic(errno)
		}
		fmt.Fprintln(os.Stdout, pid)
		must(unix.Pause())
	}
}

// A process that had its memory in common with another one, and has another now, is not taken for what the
// other one has. What that has at the same addresses was not written to.
func TestSharedMemory(t *testing.T) {
	p, child := begin(t, "shares")
	p.pid = int(number(t, child))
	t.Cleanup(func() { unix.Kill(p.pid, unix.SIGKILL) })
	tr := start(t, p)
	runs, err := tr.Collect(t.Context(), p.pid)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(within(runs, sharedAt, sharedPages), sharedPages))
	clean, _, err := tr.Scan(t.Context(), p.pid)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(within(clean, sharedAt, sharedPages), sharedPages))
	qt.Assert(t, qt.Equals(p.ask(""), "ready"))
	clean, dirty, err := tr.Scan(t.Context(), p.pid)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(within(clean, sharedAt, sharedPages), 0))
	qt.Check(t, qt.HasLen(within(dirty, sharedAt, sharedPages), 0))
}
