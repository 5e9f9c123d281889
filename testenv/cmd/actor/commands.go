package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// dialTime bounds a dial command.
const dialTime = 5 * time.Second

// do carries out a command. text is all that follows its name.
func do(conn net.Conn, line string) (string, error) {
	name, text, _ := strings.Cut(line, " ")
	switch name {
	case "echo": // echo TEXT
		return text, nil
	case "say": // say TEXT: into the log
		_, err := fmt.Fprintln(os.Stdout, text)
		return "ok", err
	case "exit": // exit CODE
		code, err := strconv.Atoi(text)
		if err == nil {
			os.Exit(code) //nolint:revive // as it was told
		}
		return "", err
	case "peer": // who is connected
		return conn.RemoteAddr().String(), nil
	case "dial": // dial NETWORK ADDRESS TEXT: sends it, and answers as the other one does
		return dial(text)
	case "open": // open NETWORK ADDRESS: serves who is there, as if it had connected
		return open(text)
	case "write": // write PATH TEXT
		path, content, _ := strings.Cut(text, " ")
		return "ok", os.WriteFile(path, []byte(content), 0o644)
	case "alloc": // alloc MIB: keeps them
		return "ok", number(text, alloc)
	case "children": // children N: starts and keeps them
		return "ok", number(text, children)
	case "burn": // burn MS: answers how many ms of processor time all processors gave in them
		return burn(text)
	default:
		return tell(name, text)
	}
}

// tell answers what the app sees of itself.
func tell(name, text string) (string, error) {
	switch name {
	case "env": // env NAME
		return os.Getenv(text), nil
	case "cwd":
		return os.Getwd()
	case "host":
		return os.Hostname()
	case "ids":
		return fmt.Sprint(os.Getuid(), os.Getgid()), nil
	case "read": // read PATH
		b, err := os.ReadFile(text)
		return strings.TrimSpace(string(b)), err
	default:
		return "", fmt.Errorf("no such command: %s", name)
	}
}

func number(text string, do func(int) error) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	return do(n)
}

func dial(text string) (string, error) {
	words := strings.SplitN(text, " ", 3)
	if len(words) != 3 {
		return "", errors.New("want NETWORK ADDRESS TEXT")
	}
	conn, err := net.DialTimeout(words[0], words[1], dialTime)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(dialTime)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, words[2]); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(answer), err
}

func open(text string) (string, error) {
	network, address, _ := strings.Cut(text, " ")
	conn, err := net.DialTimeout(network, address, dialTime)
	if err != nil {
		return "", err
	}
	go session(conn)
	return conn.LocalAddr().String(), nil
}

var kept [][]byte //nolint:gochecknoglobals // for the life of the program

func alloc(mib int) error {
	b := make([]byte, mib<<20)
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = byte(i>>12) | 1
	}
	kept = append(kept, b)
	return nil
}

func children(n int) error {
	for range n {
		if err := exec.Command("/proc/self/exe", "wait").Start(); err != nil { //nolint:noctx // it ends with the app
			return err
		}
	}
	return nil
}

func burn(text string) (string, error) {
	ms, err := strconv.Atoi(text)
	if err != nil {
		return "", err
	}
	var before, after syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
		return "", err
	}
	end := time.Now().Add(time.Duration(ms) * time.Millisecond)
	done := make(chan int)
	workers := runtime.NumCPU()
	for range workers {
		go func() {
			n := 0
			for time.Now().Before(end) {
				n++
			}
			done <- n
		}()
	}
	for range workers {
		<-done
	}
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
		return "", err
	}
	used := func(r syscall.Rusage) int64 { return r.Utime.Nano() + r.Stime.Nano() }
	return strconv.FormatInt((used(after)-used(before))/int64(time.Millisecond), 10), nil
}
