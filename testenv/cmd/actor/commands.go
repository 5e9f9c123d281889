package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
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
	case "count": // count: how often it was asked, in memory
		return strconv.FormatInt(asked.Add(1), 10), nil
	case "watch": // watch PATH: notes how often a file there is replaced, from now on
		return "ok", watch(text)
	case "sessions": // how many go on
		return strconv.FormatInt(sessions.Load(), 10), nil
	case "watched": // how often
		return strconv.FormatInt(replaced.Load(), 10), nil
	case "self": // the address that this connection is at
		return conn.LocalAddr().String(), nil
	case "open": // open NETWORK ADDRESS: serves who is there, as if it had connected
		return open(text)
	case "write": // write PATH TEXT
		path, content, _ := strings.Cut(text, " ")
		return "ok", os.WriteFile(path, []byte(content), 0o644)
	case "mkdir": // mkdir PATH
		return "ok", os.MkdirAll(text, 0o755)
	case "list": // list PATH
		entries, err := os.ReadDir(text)
		names := make([]string, len(entries))
		for i, e := range entries {
			names[i] = e.Name()
		}
		return strings.Join(names, " "), err
	case "size": // size PATH
		info, err := os.Stat(text)
		if err != nil {
			return "", err
		}
		return strconv.FormatInt(info.Size(), 10), nil
	case "tick": // tick PATH: writes to it every millisecond, from now on
		return "ok", tick(text)
	case "hold": // hold PATH: has a new file there open, from now on
		f, err := os.Create(text)
		held = append(held, f)
		return "ok", err
	case "held": // what is in the files that it holds, one after the other
		return inHeld()
	case "append": // append TEXT: to those files
		for _, f := range held {
			if _, err := f.WriteString(text); err != nil {
				return "", err
			}
		}
		return "ok", nil
	case "map": // map PATH: has a file mapped, from now on
		return "ok", mapFile(text)
	case "mapped": // what is in the files that it has mapped, one after the other
		return string(bytes.Join(maps, nil)), nil
	case "start": // start PATH: another actor that waits, and keeps it
		return "ok", exec.Command(text, "wait").Start() //nolint:noctx // it ends with the app
	case "remove": // remove PATH, with all in it
		return "ok", os.RemoveAll(text)
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
	case "hangups": // how often it got SIGHUP
		return strconv.FormatInt(hangups.Load(), 10), nil
	case "pid":
		return strconv.Itoa(os.Getpid()), nil
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
	case "line": // line PATH: all of its lines in one
		b, err := os.ReadFile(text)
		return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", " "), err
	case "mode": // mode PATH: and owner and group
		info, err := os.Stat(text)
		if err != nil {
			return "", err
		}
		st := info.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // on Linux
		return fmt.Sprint(info.Mode(), " ", st.Uid, " ", st.Gid), nil
	case "instance": // its name, by the file that tells it
		return instance()
	default:
		return "", fmt.Errorf("no such command: %s", name)
	}
}

func instance() (string, error) {
	b, err := os.ReadFile("/run/snapctl/instance.json")
	if err != nil {
		return "", err
	}
	var file struct{ Name string }
	err = json.Unmarshal(b, &file)
	return file.Name, err
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

// The state of the program that its copies have each for themselves.
var asked, replaced, hangups, sessions atomic.Int64 //nolint:gochecknoglobals // for the life of the program

// tick opens the file for each tick: one that it had open could not grow while it is frozen.
func tick(path string) error {
	once := func() error {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(".")
		return errors.Join(err, f.Close())
	}
	if err := once(); err != nil {
		return err
	}
	go func() {
		for range time.Tick(time.Millisecond) {
			if err := once(); err != nil {
				return
			}
		}
	}()
	return nil
}

// watch waits for files that replace the one at a path, by inotify(7).
func watch(path string) error {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
	if err != nil {
		return err
	}
	if _, err := syscall.InotifyAddWatch(fd, filepath.Dir(path), syscall.IN_MOVED_TO); err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := syscall.Read(fd, buf)
			if err != nil && !errors.Is(err, syscall.EINTR) {
				return
			}
			if bytes.Contains(buf[:max(n, 0)], []byte(filepath.Base(path)+"\x00")) {
				replaced.Add(1)
			}
		}
	}()
	return nil
}

var held []*os.File //nolint:gochecknoglobals // for the life of the program

func inHeld() (string, error) {
	var all []byte
	for _, f := range held {
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		if err != nil {
			return "", err
		}
		all = append(all, b...)
	}
	return string(all), nil
}

var maps [][]byte //nolint:gochecknoglobals // for the life of the program

func mapFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(info.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	maps = append(maps, b)
	return err
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
