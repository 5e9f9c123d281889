package inject

import (
	"encoding/binary"
	"fmt"
	"os"
)

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

func nativeUint64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }
