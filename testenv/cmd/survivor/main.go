// Command survivor is an app that holds one of each thing a hibernation has to
// keep, and knows what it must find afterwards.
//
// A client tells it, line by line, to set a thing up and later to check it:
//
//	setup pipe          answer: ok
//	check pipe          answer: ok, or what is wrong
//	tcp read c 5        see tcp.go
//
// What is set up belongs to the process and not to the connection, so that a
// restored copy can be checked through a connection of its own.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cmd/survivor/internal/script"
)

// A check tells what is wrong with a thing; arg is up to the thing.
type check func(arg string) error

// A setup makes a thing.
type setup func() (check, error)

func main() {
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "child":
		err = child()
	case len(os.Args) == 2 && os.Args[1] == "processors": // that Go finds to be its own
		_, err = fmt.Println(runtime.GOMAXPROCS(0))
	case len(os.Args) == 2 && os.Args[1] == "web":
		err = web()
	default:
		err = serve(":7000")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "survivor: error:", err)
		os.Exit(1)
	}
}

func serve(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s := &server{things: things(), checks: map[string]check{}, sockets: sockets{}}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go s.session(conn)
	}
}

// things are all that can be set up.
func things() map[string]setup {
	return map[string]setup{
		"tree": tree, "threads": threads, "group": group,
		"signals": signals, "queued-signals": python(script.QueuedSignals), "timers": timers, "clock": clock,
		"pipe": pipe, "fifo": fifo, "unix-stream": unixStream, "unix-messages": unixMessages,
		"unix-to-host": unixToHost, "unix-accepted": unixAccepted, "unix-listener": unixListener, "unix-listener-early": unixListenerEarly, "passed-fds": passedFDs, "passed-file": passedFile,
		"epoll": epoll, "connections": python(script.Connections), "eventfd": eventfd, "eventfd-semaphore": eventfdSemaphore, "timerfd": timerfd, "timerfd-absolute": timerfdAbsolute, "signalfd": signalfd, "inotify": inotify,
		"inotify-shm": inotifyShm, "inotify-queued": inotifyQueued, "inotify-bind": inotifyBind, "inotify-proc": inotifyProc,
		"flock": flock, "posix-lock": posixLock, "ofd-lock": ofdLock,
		"deleted-file": deletedFile, "files": files, "memfd": memfd, "cwd": cwd,
		"mapped-file": mappedFile, "tmpfile": tmpfile, "flags": flags, "aio": aio,
		"pty-queued": ptyQueued, "pty-waiting": ptyWaiting, "sleep": sleep, "blocked-calls": python(script.BlockedCalls), "timed-calls": python(script.TimedCalls), "privileges": python(script.Privileges), "deleted-cwd": python(script.DeletedCWD), "mount-namespace": python(script.MountNamespace), "traced": python(script.Traced), "pid-namespace": python(script.PIDNamespace),
		"net-namespace": python(script.NamespaceOf(unix.CLONE_NEWNET)), "user-namespace": python(script.NamespaceOf(unix.CLONE_NEWUSER)), "ipc-namespace": python(script.NamespaceOf(unix.CLONE_NEWIPC)), "uts-namespace": python(script.NamespaceOf(unix.CLONE_NEWUTS)),
		"sysv": python(script.SysV), "sysv-undo": python(script.SysVUndo), "posix-shm": posixShm, "posix-sem": python(script.PosixSem), "mqueue": python(script.MQueue),
		"mqueue-notify": python(script.MQueueNotify), "mqueue-sysv": python(script.MQueueSysV), "pty": pty, "pty-session": python(script.PTYSession), "pty-shell": python(script.PTYShell), "cow": python(script.CopyOnWrite),
		"shared-memory": sharedMemory, "udp": udp,
		"io_uring": ioUring, "mptcp": mptcp, "tun": device("tun", 10, 200), "loop": device("loop", 10, 237), "userfaultfd": userfaultfd,
	}
}

type server struct {
	things map[string]setup

	mu      sync.Mutex // one command at a time
	checks  map[string]check
	sockets sockets
}

// session answers the commands of one client.
func (s *server) session(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "survivor:", err)
			}
			return
		}
		answer, err := s.do(strings.Fields(line))
		if err != nil {
			answer = "error: " + strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		if _, err := fmt.Fprintln(conn, answer); err != nil {
			return
		}
	}
}

func (s *server) do(words []string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(words) < 2 {
		return "", errors.New("want a command and its arguments")
	}
	command, name, args := words[0], words[1], words[2:]
	switch command {
	case "setup":
		make, ok := s.things[name]
		if !ok {
			return "", fmt.Errorf("no such thing: %s", name)
		}
		c, err := make()
		s.checks[name] = c
		return "ok", err
	case "check":
		c := s.checks[name]
		if c == nil {
			return "", fmt.Errorf("%s is not set up", name)
		}
		return "ok", c(strings.Join(args, " "))
	case "tcp":
		return s.sockets.do(name, args)
	}
	return "", fmt.Errorf("no such command: %s", command)
}

// same tells how a value differs from what it should be.
func same[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, want %v", what, got, want)
	}
	return nil
}

// waitTime is how long a thing that must be there is waited for, in ms.
const waitTime = 5000

// readable waits until there is something to read.
func readable(fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, waitTime)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case n == 0:
			return fmt.Errorf("descriptor %d has nothing to read", fd)
		default:
			return nil
		}
	}
}

// expect reads exactly want.
func expect(fd int, want string) error {
	got, err := readN(fd, len(want))
	if err != nil {
		return fmt.Errorf("read %q: %w", want, err)
	}
	return same("what was read", got, want)
}

// readN reads n bytes, waiting for them.
func readN(fd, n int) (string, error) {
	buf := make([]byte, n)
	done := 0
	for done < n {
		if err := readable(fd); err != nil {
			return string(buf[:done]), err
		}
		m, err := unix.Read(fd, buf[done:])
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return string(buf[:done]), err
		}
		if m == 0 {
			return string(buf[:done]), io.ErrUnexpectedEOF
		}
		done += m
	}
	return string(buf), nil
}

// write writes all of s.
func write(fd int, s string) error {
	n, err := unix.Write(fd, []byte(s))
	if err == nil && n != len(s) {
		err = io.ErrShortWrite
	}
	return err
}
