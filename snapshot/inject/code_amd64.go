package inject

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const callVfork = unix.SYS_VFORK

// instruction is syscall.
var instruction = []byte{0x0f, 0x05}

type registers unix.PtraceRegs

// code64 is the code segment of processes of 64 bits (arch/x86/include/asm/segment.h, __USER_CS).
const code64 = 0x33

func readRegisters(tid int) (r registers, err error) {
	if err := unix.PtraceGetRegs(tid, (*unix.PtraceRegs)(&r)); err != nil {
		return r, fmt.Errorf("read registers of thread %d: %w", tid, err)
	}
	if r.Cs != code64 {
		return r, fmt.Errorf("%w: thread %d runs code of 32 bits", ErrUnsupported, tid)
	}
	return r, nil
}

func (r registers) write(tid int) error {
	if err := unix.PtraceSetRegs(tid, (*unix.PtraceRegs)(&r)); err != nil {
		return fmt.Errorf("write registers of thread %d: %w", tid, err)
	}
	return nil
}

// noCall in Orig_rax says that no system call was interrupted, so that none is restarted.
const noCall = ^uint64(0)

func (r registers) atCall(instruction uint64, number uintptr, args []uint64) registers {
	r.Rip, r.Rax, r.Orig_rax = instruction, uint64(number), noCall
	for i, to := range []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9} {
		*to = 0
		if i < len(args) {
			*to = args[i]
		}
	}
	return r
}

func (r registers) result() int64 { return int64(r.Rax) }

// findSyscall returns the address of a syscall instruction in a process: in the vDSO, if that has one,
// else in any code.
func findSyscall(pid int) (uint64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, fmt.Errorf("read mappings: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	var code [][2]uint64
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var from, to uint64
		var mode string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); n != 3 || mode[0] != 'r' || mode[2] != 'x' {
			continue
		}
		if strings.HasSuffix(lines.Text(), "[vdso]") {
			code = append([][2]uint64{{from, to}}, code...)
			continue
		}
		code = append(code, [2]uint64{from, to})
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read mappings: %w", err)
	}
	for _, c := range code {
		for at := c[0]; at < c[1]; at += blockSize - 1 {
			b := make([]byte, min(blockSize, c[1]-at))
			if readMemory(pid, at, b) != nil {
				break // [vsyscall], or a file that has become shorter
			}
			if i := bytes.Index(b, instruction); i >= 0 {
				return at + uint64(i), nil
			}
		}
	}
	return 0, fmt.Errorf("%w: it has no syscall instruction", ErrUnsupported)
}

// blockSize is how much code is looked at at once.
const blockSize = 64 << 10
