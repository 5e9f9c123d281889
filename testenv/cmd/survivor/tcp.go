package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// sockets are TCP sockets by name. A test drives them through the states by
//
//	tcp listen L PORT BACKLOG
//	tcp accept L C        take a connection from a listener
//	tcp dial C ADDR:PORT  begin to connect
//	tcp write C TEXT      write one word
//	tcp fill C            write numbers until no more fits; answers how many bytes
//	tcp drain C N         read N bytes of what fill wrote
//	tcp read C TEXT       read exactly that
//	tcp end C             read the end of the stream
//	tcp shutdown C        end one's own stream
//	tcp state C           answer the state's number, include/net/tcp_states.h
//	tcp pass C            put it on its way through a unix socket, and close it
//	tcp take C            take what was passed
//	tcp close C
type sockets map[string]int

func (s sockets) do(command string, args []string) (string, error) {
	if len(args) == 0 {
		return "", errors.New("which socket?")
	}
	name, args := args[0], args[1:]
	fd, ok := s[name]
	makes := command == "listen" || command == "dial" || command == "take"
	if !ok && !makes {
		return "", fmt.Errorf("no socket %s", name)
	}
	if want := map[string]int{"listen": 2, "dial": 1, "accept": 1, "write": 1, "read": 1, "drain": 1}[command]; len(args) != want {
		return "", fmt.Errorf("%s takes %d arguments more", command, want)
	}
	switch command {
	case "listen", "dial":
		made, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		s[name] = made
		if command == "dial" {
			return "ok", dial(made, args[0])
		}
		return "ok", listen(made, args)
	case "accept":
		if err := readable(fd); err != nil {
			return "", err
		}
		conn, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		s[args[0]] = conn
		return "ok", err
	case "write":
		return "ok", write(fd, args[0])
	case "fill":
		n, err := fill(fd)
		return strconv.Itoa(n), err
	case "drain":
		return "ok", drain(fd, args[0])
	case "read":
		return "ok", expect(fd, args[0])
	case "end":
		got, err := readN(fd, 1)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return "ok", nil
		}
		return "", fmt.Errorf("read %q: %w", got, err)
	case "shutdown":
		return "ok", unix.Shutdown(fd, unix.SHUT_WR)
	case "state":
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return "", err
		}
		return strconv.Itoa(int(info.State)), nil
	case "pass":
		delete(s, name)
		ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		s["passing"] = ends[1]
		return "ok", errors.Join(err, unix.Sendmsg(ends[0], []byte("x"), unix.UnixRights(fd), nil, 0), unix.Close(fd))
	case "take":
		passed, err := receive(s["passing"])
		if err != nil {
			return "", err
		}
		s[name] = passed[0]
		return "ok", nil
	case "close":
		delete(s, name)
		return "ok", unix.Close(fd)
	}
	return "", fmt.Errorf("no such command: %s", command)
}

func dial(fd int, address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if errors.Is(err, unix.EINPROGRESS) {
		return nil
	}
	return err
}

func listen(fd int, args []string) error {
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	backlog, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	return errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Port: port}), unix.Listen(fd, backlog))
}

// drain reads what the other end's fill wrote, or the beginning of that.
func drain(fd int, text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	got, err := readN(fd, n)
	if err != nil {
		return err
	}
	for at := 0; at+8 <= len(got); at += 8 {
		if have := binary.BigEndian.Uint64([]byte(got[at : at+8])); have != uint64(at) {
			return fmt.Errorf("number %d at %d", have, at)
		}
	}
	return nil
}

// fill writes 8 byte numbers, whole or in part, until the socket's buffer and
// the peer's are full.
func fill(fd int) (int, error) {
	buf := make([]byte, 0, 8<<10)
	for n := 0; ; {
		buf = buf[:0]
		for at := n &^ 7; len(buf) < cap(buf); at += 8 {
			buf = binary.BigEndian.AppendUint64(buf, uint64(at))
		}
		m, err := unix.Write(fd, buf[n&7:])
		if errors.Is(err, unix.EAGAIN) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n += m
	}
}
