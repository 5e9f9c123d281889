package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// pipe has data in it, a size and flags of its own, and a second one that is at
// its end.
func pipe() (check, error) {
	var p, ended [2]int
	if err := errors.Join(unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC), unix.Pipe(ended[:])); err != nil {
		return nil, err
	}
	size, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, 1<<18)
	if err != nil {
		return nil, err
	}
	err = errors.Join(write(p[1], "unread"), write(ended[1], "last"), unix.Close(ended[1]))
	return func(string) error {
		now, err := unix.FcntlInt(uintptr(p[0]), unix.F_GETPIPE_SZ, 0)
		if err != nil {
			return err
		}
		flags, err := unix.FcntlInt(uintptr(p[1]), unix.F_GETFL, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(
			same("the pipe's size", now, size), same("its O_NONBLOCK", flags&unix.O_NONBLOCK, unix.O_NONBLOCK),
			expect(p[0], "unread"), write(p[1], "more"), expect(p[0], "more"), expect(ended[0], "last"),
		); err != nil {
			return err
		}
		if s, err := readN(ended[0], 1); !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("read %q at the end: %w", s, err)
		}
		return nil
	}, err
}

// fifo has a reader, a writer and data.
func fifo() (check, error) {
	const path = "/tmp/fifo"
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, err
	}
	r, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	w, err := unix.Open(path, unix.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	err = write(w, "unread")
	return func(string) error {
		return errors.Join(expect(r, "unread"), write(w, "more"), expect(r, "more"))
	}, err
}

// unixStream is a connected pair with data both ways, and one half closed.
func unixStream() (check, error) {
	a, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	half, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(write(a[0], "there"), write(a[1], "back"), write(half[0], "last"), unix.Shutdown(half[0], unix.SHUT_WR))
	return func(string) error {
		if err := errors.Join(
			expect(a[1], "there"), expect(a[0], "back"), write(a[0], "more"), expect(a[1], "more"),
			expect(half[1], "last"), write(half[1], "answer"), expect(half[0], "answer"),
		); err != nil {
			return err
		}
		if s, err := readN(half[1], 1); !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("read %q at the end: %w", s, err)
		}
		return nil
	}, err
}

// unixMessages are datagrams and packets, which keep their borders, also to a
// named and to an abstract address.
func unixMessages() (check, error) {
	var pairs [][2]int
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		p, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, p)
	}
	for _, name := range []string{"/tmp/datagrams", "@survivor"} {
		from, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return nil, err
		}
		to, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return nil, err
		}
		addr := &unix.SockaddrUnix{Name: name}
		if err := errors.Join(unix.Bind(to, addr), unix.Connect(from, addr)); err != nil {
			return nil, err
		}
		pairs = append(pairs, [2]int{from, to})
	}
	for _, p := range pairs {
		if err := errors.Join(write(p[0], "first"), write(p[0], "second")); err != nil {
			return nil, err
		}
	}
	return func(string) error {
		buf := make([]byte, 100)
		for i, p := range pairs {
			for _, want := range []string{"first", "second", "third"} {
				if want == "third" {
					if err := write(p[0], want); err != nil {
						return err
					}
				}
				if err := readable(p[1]); err != nil {
					return fmt.Errorf("pair %d: %w", i, err)
				}
				n, err := unix.Read(p[1], buf)
				if err := errors.Join(err, same("message", string(buf[:n]), want)); err != nil {
					return fmt.Errorf("pair %d: %w", i, err)
				}
			}
		}
		return nil
	}, nil
}

func unixListener() (check, error)      { return listenUnix("") }
func unixListenerEarly() (check, error) { return listenUnix("early") }

// listenUnix has a client that is not accepted yet, and may have written already.
func listenUnix(early string) (check, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "/tmp/listener", Net: "unix"})
	if err != nil {
		return nil, err
	}
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(unix.Connect(client, &unix.SockaddrUnix{Name: "/tmp/listener"}), write(client, early))
	return func(string) error {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		if early == "" {
			if err := write(client, "early"); err != nil {
				return err
			}
		}
		buf := make([]byte, 5)
		_, err = io.ReadFull(conn, buf)
		if err := errors.Join(err, same("what the client wrote", string(buf), "early")); err != nil {
			return err
		}
		_, err = conn.Write([]byte("late"))
		if err := errors.Join(err, expect(client, "late")); err != nil {
			return err
		}
		fresh, err := net.Dial("unix", "/tmp/listener") //nolint:noctx // at once
		if err != nil {
			return err
		}
		second, err := l.Accept()
		if err != nil {
			return err
		}
		return errors.Join(fresh.Close(), second.Close(), conn.Close())
	}, err
}

// passedFDs sends both ends of a pipe through a socket, and closes its own.
func passedFDs() (check, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	var pipe [2]int
	if err := errors.Join(unix.Pipe(pipe[:]), write(pipe[1], "inside")); err != nil {
		return nil, err
	}
	err = errors.Join(unix.Sendmsg(p[0], []byte("x"), unix.UnixRights(pipe[:]...), nil, 0), unix.Close(pipe[0]), unix.Close(pipe[1]))
	return func(string) error {
		got, err := receive(p[1])
		if err != nil {
			return err
		}
		return errors.Join(same("descriptors", len(got), 2), expect(got[0], "inside"), write(got[1], "more"), expect(got[0], "more"))
	}, err
}

// passedFile sends an open file.
func passedFile() (check, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile("/tmp/passed", []byte("skipped, kept"), 0o600); err != nil {
		return nil, err
	}
	f, err := os.Open("/tmp/passed")
	if err != nil {
		return nil, err
	}
	_, err = f.Seek(int64(len("skipped, ")), io.SeekStart)
	err = errors.Join(err, unix.Sendmsg(p[0], []byte("x"), unix.UnixRights(int(f.Fd())), nil, 0), f.Close())
	return func(string) error {
		got, err := receive(p[1])
		if err != nil {
			return err
		}
		return errors.Join(same("descriptors", len(got), 1), expect(got[0], "kept"))
	}, err
}

func receive(fd int) ([]int, error) {
	if err := readable(fd); err != nil {
		return nil, err
	}
	buf, control := make([]byte, 1), make([]byte, 100)
	_, n, _, _, err := unix.Recvmsg(fd, buf, control, 0)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	return unix.ParseUnixRights(&messages[0])
}

// unixToHost is a datagram socket that is connected to one of the host's.
func unixToHost() (check, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	err = errors.Join(unix.Connect(fd, &unix.SockaddrUnix{Name: "/bind/log"}), write(fd, "before"))
	return func(text string) error { return write(fd, text) }, err
}

// unixAccepted is a connection of a host program whose listener is closed.
func unixAccepted() (check, error) {
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.Bind(l, &unix.SockaddrUnix{Name: "/bind/once"}), unix.Listen(l, 1)); err != nil {
		return nil, err
	}
	fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	err = errors.Join(err, unix.Close(l))
	return func(text string) error { return write(fd, text) }, err
}
