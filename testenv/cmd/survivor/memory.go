package main

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// posixShm is a named and an unlinked object of /dev/shm, mapped.
func posixShm() (check, error) {
	var mems [][]byte
	for _, path := range []string{"/dev/shm/named", "/dev/shm/unlinked"} {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := f.Truncate(8192); err != nil {
			return nil, err
		}
		mem, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, err
		}
		copy(mem[5000:], "shared")
		mems = append(mems, mem)
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	err := os.Remove("/dev/shm/unlinked")
	return func(string) error {
		for _, mem := range mems {
			if err := same("content", string(mem[5000:5006]), "shared"); err != nil {
				return err
			}
			copy(mem[5000:], "SHARED")
		}
		b, err := os.ReadFile("/dev/shm/named")
		return errors.Join(err, same("the file", string(b[5000:5006]), "SHARED"))
	}, err
}

// sharedMemory is memory of each other kind: shared anonymous, private file,
// read-only, guarded, locked by advice, and large with holes.
func sharedMemory() (check, error) {
	page := os.Getpagesize()
	anon, err := unix.Mmap(-1, 0, 16*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	copy(anon[3*page:], "anonymous")
	holes, err := unix.Mmap(-1, 0, 1<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	copy(holes[700<<20:], "far")
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return nil, err
	}
	private, err := unix.Mmap(int(f.Fd()), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	copy(private, "mine:")
	readOnly, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	copy(readOnly, "constant")
	err = errors.Join(unix.Mprotect(readOnly, unix.PROT_READ), unix.Madvise(holes, unix.MADV_DONTFORK), f.Close())
	return func(string) error {
		err := errors.Join(
			same("anonymous", string(anon[3*page:3*page+9]), "anonymous"),
			same("far", string(holes[700<<20:700<<20+3]), "far"), same("hole", holes[10<<20], 0),
			same("private", string(private[:5]), "mine:"), same("read-only", string(readOnly[:8]), "constant"),
		)
		// It must still be zero after it was given back.
		if merr := unix.Madvise(holes[700<<20:700<<20+page], unix.MADV_DONTNEED); merr == nil {
			err = errors.Join(err, same("given back", holes[700<<20], 0))
		}
		return err
	}, err
}

// The things below can't be hibernated.

func ioUring() (check, error) {
	var params [120]byte // struct io_uring_params
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	if errno != 0 {
		return nil, errno
	}
	return func(string) error { return unix.Close(int(fd)) }, nil
}

// mptcp allows MPTCP in the app's network namespace, which has it off.
func mptcp() (check, error) {
	if err := os.WriteFile("/proc/sys/net/mptcp/enabled", []byte("1"), 0); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	if err != nil {
		return nil, err
	}
	return func(string) error { return unix.Close(fd) }, errors.Join(
		unix.Bind(fd, &unix.SockaddrInet4{Port: 7777}), unix.Listen(fd, 5))
}

func userfaultfd() (check, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return nil, errno
	}
	return func(string) error { return unix.Close(int(fd)) }, nil
}

// device opens a device that the app has made for itself.
func device(name string, major, minor uint32) setup {
	return func() (check, error) {
		path := "/tmp/" + name
		if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
			return nil, fmt.Errorf("make device: %w", err)
		}
		fd, err := unix.Open(path, unix.O_RDWR, 0)
		return func(string) error { return unix.Close(fd) }, err
	}
}
