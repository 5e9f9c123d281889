// Command actor is an app that does what its clients tell it, line by line, and
// tells what it sees: its environment, its limits, who speaks to it.
//
//	actor [--tcp ADDRESS] [--bound ADDRESS] [--udp ADDRESS] [--unix PATH]
//
// Each line of a TCP or unix connection is a command, and gets one line for an
// answer; see commands.go. A datagram comes back with "echo " before it. It says
// "ready" on standard output when it serves all that it was told to.
//
//	actor wait
//
// only waits to be ended.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	tcp := flag.String("tcp", "", "serve TCP at this `address`")
	udp := flag.String("udp", "", "echo datagrams at this `address`")
	bound := flag.String("bound", "", "serve TCP at this `address` too")
	path := flag.String("unix", "", "serve a unix socket at this `path`")
	flag.Parse()
	err := serve(*udp, map[string]string{"tcp " + *tcp: *tcp, "tcp " + *bound + " ": *bound, "unix " + *path: *path})
	if err != nil {
		fmt.Fprintln(os.Stderr, "actor: error:", err)
		os.Exit(1)
	}
}

// serve returns at SIGTERM, or when something fails.
func serve(udp string, at map[string]string) error {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if flag.Arg(0) == "wait" {
		<-term
		return nil
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		for range hup {
			hangups.Add(1)
		}
	}()
	ended := make(chan error)
	for what, address := range at {
		if address == "" {
			continue
		}
		network, _, _ := strings.Cut(what, " ")
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		go func() { ended <- accept(l) }()
	}
	if udp != "" {
		conn, err := net.ListenPacket("udp", udp)
		if err != nil {
			return err
		}
		go func() { ended <- echo(conn) }()
	}
	if _, err := fmt.Fprintln(os.Stdout, "ready"); err != nil {
		return err
	}
	select {
	case <-term:
		return nil
	case err := <-ended:
		return err
	}
}

func accept(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go session(conn)
	}
}

// session answers the commands of one client.
func session(conn net.Conn) {
	sessions.Add(1)
	defer sessions.Add(-1)
	defer conn.Close()
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, "actor:", err)
			}
			return
		}
		answer, err := do(conn, strings.TrimSpace(line))
		if err != nil {
			answer = "error: " + strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		if _, err := fmt.Fprintln(conn, answer); err != nil {
			return
		}
	}
}

func echo(conn net.PacketConn) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(append([]byte("echo "), buf[:n]...), from); err != nil {
			return err
		}
	}
}
