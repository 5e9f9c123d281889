package omit

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Hold has the next question of CRIU, after one from which pages were left out, wait for ever.
func (o *Omission) Hold() {
	for {
		o.mu.Lock()
		for _, f := range o.files {
			if f.set.left > 0 {
				return
			}
		}
		o.mu.Unlock()
	}
}

// Scan asks for the pages of a pagemap, of which there is none.
func Scan(fd int) error {
	ask := scan{AnyOf: isPresent, Return: isPresent}
	ask.Size = uint64(unsafe.Sizeof(ask))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pagemapScan, uintptr(unsafe.Pointer(&ask))); errno != 0 {
		return errno
	}
	return nil
}
