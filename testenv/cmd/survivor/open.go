package main

import (
	"errors"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mappedFile is written through a shared mapping and read through the file.
func mappedFile() (check, error) {
	const path = "/tmp/mapped"
	if err := os.WriteFile(path, make([]byte, 3*4096), 0o600); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 4096, 2*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	copy(mem, "mapped")
	return func(string) error {
		copy(mem[4096:], "again")
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return errors.Join(same("first", string(b[4096:4102]), "mapped"), same("second", string(b[8192:8197]), "again"))
	}, f.Close()
}

// tmpfile never had a name.
func tmpfile() (check, error) {
	fd, err := unix.Open("/tmp", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = write(fd, "nameless")
	return func(string) error {
		got := make([]byte, 8)
		_, err := unix.Pread(fd, got, 0)
		return errors.Join(err, same("content", string(got), "nameless"))
	}, err
}

// flags are those of descriptors: close on exec, append, the receiver of
// signals, and that two descriptors share one position.
func flags() (check, error) {
	fd, err := unix.Open("/tmp/flags", unix.O_CREAT|unix.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	shared, err := unix.Dup(fd)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	_, err = unix.FcntlInt(uintptr(pair[0]), unix.F_SETOWN, unix.Getpid())
	err = errors.Join(err, write(fd, "0123456789"))
	return func(string) error {
		closes, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil {
			return err
		}
		keeps, err := unix.FcntlInt(uintptr(shared), unix.F_GETFD, 0)
		if err != nil {
			return err
		}
		mode, err := unix.FcntlInt(uintptr(shared), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		owner, err := unix.FcntlInt(uintptr(pair[0]), unix.F_GETOWN, 0)
		if err != nil {
			return err
		}
		if _, err := unix.Seek(fd, 3, unix.SEEK_SET); err != nil {
			return err
		}
		return errors.Join(
			same("FD_CLOEXEC", closes, unix.FD_CLOEXEC), same("FD_CLOEXEC of the copy", keeps, 0),
			same("O_APPEND", mode&unix.O_APPEND, unix.O_APPEND), same("owner", owner, unix.Getpid()), expect(shared, "345"),
		)
	}, err
}

// aio is a context of Linux's older asynchronous I/O.
func aio() (check, error) {
	var ctx uintptr
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 16, uintptr(unsafe.Pointer(&ctx)), 0); errno != 0 {
		return nil, errno
	}
	f, err := os.Create("/tmp/aio")
	if err != nil {
		return nil, err
	}
	data := []byte("written")
	return func(string) error {
		// struct iocb: data, key, rw_flags, opcode, reqprio, fildes, buf, nbytes.
		cb := struct {
			data         uint64
			key, flags   uint32
			opcode, prio uint16
			fd           uint32
			buf, n       uint64
			offset       int64
			rest         [3]uint64
		}{data: 42, opcode: 1 /* IOCB_CMD_PWRITE */, fd: uint32(f.Fd()), buf: uint64(uintptr(unsafe.Pointer(&data[0]))), n: uint64(len(data))}
		list := []unsafe.Pointer{unsafe.Pointer(&cb)}
		if _, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, ctx, 1, uintptr(unsafe.Pointer(&list[0]))); errno != 0 {
			return errno
		}
		var event struct{ data, obj, res, res2 uint64 }
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, ctx, 1, 1, uintptr(unsafe.Pointer(&event)), 0, 0)
		if errno != 0 {
			return errno
		}
		b, err := os.ReadFile("/tmp/aio")
		return errors.Join(err, same("events", n, 1), same("data", event.data, 42), same("content", string(b), "written"))
	}, nil
}

// sleep is a process that sleeps when it is frozen, and must do so to the end.
func sleep() (check, error) {
	cmd := exec.Command("sleep", "2") //nolint:noctx // ends by itself
	err := cmd.Start()
	return func(string) error { return cmd.Wait() }, err
}
