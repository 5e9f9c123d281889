package fastpath

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The parts of union bpf_attr that are used (include/uapi/linux/bpf.h). Its
// pointers are u64, which an unsafe.Pointer is on the machines that New admits;
// so the collector sees them, and follows when it moves a stack.
type (
	mapCreateAttr struct {
		kind, keySize, valueSize, entries, flags, innerFD, numaNode uint32
		name                                                        [unix.BPF_OBJ_NAME_LEN]byte
	}
	mapElementAttr struct {
		fd         uint32
		_          uint32
		key, value unsafe.Pointer
		flags      uint64
	}
	progLoadAttr struct {
		kind, count        uint32
		insns, license     unsafe.Pointer
		logLevel, logSize  uint32
		log                unsafe.Pointer
		kernVersion, flags uint32
		name               [unix.BPF_OBJ_NAME_LEN]byte
	}
)

func newMap() (*os.File, error) {
	attr := mapCreateAttr{
		kind: unix.BPF_MAP_TYPE_HASH, keySize: 16, valueSize: 4, entries: maxEntries, flags: unix.BPF_F_NO_PREALLOC,
	}
	copy(attr.name[:], "snapctl")
	fd, err := bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "bpf-map"), nil
}

func newProgram(code []byte) (*os.File, error) {
	license := []byte("Apache-2.0\x00")
	attr := progLoadAttr{
		kind: unix.BPF_PROG_TYPE_SCHED_CLS, count: uint32(len(code) / 8),
		insns: unsafe.Pointer(&code[0]), license: unsafe.Pointer(&license[0]),
	}
	copy(attr.name[:], "snapctl")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == nil {
		return os.NewFile(uintptr(fd), "bpf-program"), nil
	}
	// Again, for the verifier's words.
	log := make([]byte, 64<<10)
	attr.logLevel, attr.logSize, attr.log = 1, uint32(len(log)), unsafe.Pointer(&log[0])
	if fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return nil, fmt.Errorf("%w: %s", err, unix.ByteSliceToString(log))
	}
	return os.NewFile(uintptr(fd), "bpf-program"), nil
}

// bpf is bpf(2), which makes its descriptors close-on-exec.
func bpf(cmd int, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
