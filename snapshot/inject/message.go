package inject

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Where the parts of a message are in the scratch memory. A byte of data is at its start.
const (
	vectorAt  = 16  // struct iovec
	messageAt = 64  // struct msghdr
	controlAt = 256 // struct cmsghdr, and descriptors
)

// message is what recvmsg(2) needs.
type message struct {
	base            uint64
	length, control int // bytes of data, and of control data
}

// bytes returns the scratch memory with an iovec and a msghdr in it.
func (m message) bytes() []byte {
	b := make([]byte, controlAt)
	ne := binary.NativeEndian
	ne.PutUint64(b[vectorAt:], m.base)
	ne.PutUint64(b[vectorAt+8:], uint64(m.length))
	ne.PutUint64(b[messageAt+16:], m.base+vectorAt)  // msg_iov
	ne.PutUint64(b[messageAt+24:], 1)                // msg_iovlen
	ne.PutUint64(b[messageAt+32:], m.base+controlAt) // msg_control
	ne.PutUint64(b[messageAt+40:], uint64(m.control))
	return b
}

// rights reads the descriptors that a message of one kind of control data has brought.
func rights(b []byte, count int) ([]int32, error) {
	list, err := unix.ParseSocketControlMessage(b)
	if err != nil || len(list) == 0 {
		return nil, fmt.Errorf("read control message: %w", err)
	}
	got := len(list[0].Data) / 4
	if got != count {
		return nil, fmt.Errorf("%d of %d descriptors arrived: the process's limit of open files is reached", got, count)
	}
	numbers := make([]int32, count)
	for i := range numbers {
		numbers[i] = int32(binary.NativeEndian.Uint32(list[0].Data[4*i:]))
	}
	return numbers, nil
}

// readMemory and writeMemory reach a process's memory, also where it may not be written to by itself.
func readMemory(pid int, address uint64, b []byte) error { return memory(pid, address, b, false) }

func writeMemory(pid int, address uint64, b []byte) error { return memory(pid, address, b, true) }

func memory(pid int, address uint64, b []byte, write bool) (err error) {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open memory of process %d: %w", pid, err)
	}
	defer f.Close() //nolint:errcheck // its writes are done at once
	if write {
		_, err = f.WriteAt(b, int64(address))
	} else {
		_, err = f.ReadAt(b, int64(address))
	}
	if err != nil {
		return fmt.Errorf("reach memory of process %d: %w", pid, err)
	}
	return nil
}

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
func nativeUint64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

func appendNative(b []byte, v uint64) []byte { return binary.NativeEndian.AppendUint64(b, v) }
