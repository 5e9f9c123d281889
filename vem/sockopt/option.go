package sockopt

import (
	"bytes"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Option is a socket option with its value, as getsockopt(2) gives it.
type Option struct {
	Level int    `json:"level"`
	Name  int    `json:"name"`
	Value []byte `json:"value,omitempty"`
	// Device is what an option names that names a device, which has another number in
	// another network namespace.
	Device string `json:"device,omitempty"`
}

// Get fills b with an option's value and returns its part that is one.
func Get(fd, level, name int, b []byte) ([]byte, error) {
	size := uint32(len(b))
	// It never waits for anything, and there are so many of them that telling the Go
	// scheduler each time would be a third of the cost.
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil, errno
	}
	return b[:min(int(size), len(b))], nil
}

// Set sets an option; without a value, to nothing.
func Set(fd, level, name int, b []byte) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Missing tells that this kernel, or this kind of socket, has no such option.
func Missing(err error) bool {
	return errors.Is(err, unix.ENOPROTOOPT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// Read reads the options of a class that the socket has, of both address families if six
// is that of an IPv6 socket.
func Read(fd int, c Class, family int) ([]Option, error) {
	var list []Option
	var buf [maxValue]byte
	for _, k := range Kinds(c) {
		if k.Level == unix.IPPROTO_IPV6 && family != unix.AF_INET6 {
			continue
		}
		v, err := Get(fd, k.Level, k.Name, buf[:k.Size])
		if Missing(err) {
			continue
		}
		if err != nil {
			return nil, &Error{Label: k.Label, Err: err}
		}
		list = append(list, Option{Level: k.Level, Name: k.Name, Value: bytes.Clone(v)})
	}
	return list, nil
}

// Error is an option that could not be read or set.
type Error struct {
	Label string
	Err   error
}

// Error implements error.
func (e *Error) Error() string { return e.Label + ": " + e.Err.Error() }

// Unwrap is the kernel's answer.
func (e *Error) Unwrap() error { return e.Err }
