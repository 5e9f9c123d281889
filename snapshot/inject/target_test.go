package inject_test

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/inject"
)

const targetCommand = "target"

// target is a program with all that stopping it might break, which checks itself: threads that
// calculate, allocate memory, sleep, wait for each other, and read from pipes; signals; a seccomp
// filter that refuses inotify_init1(2). It ends when stdin does, and says what was wrong.
func target() {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_INOTIFY_INIT1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := filterAll(filter); err != nil {
		fmt.Fprintln(os.Stdout, "seccomp:", err)
		return
	}
	var stop atomic.Bool
	var wrong sync.Map
	var wg sync.WaitGroup
	worker := func(name string, step func() error) {
		wg.Go(func() {
			for !stop.Load() {
				if err := step(); err != nil {
					wrong.Store(name, err)
					return
				}
			}
		})
	}
	data := make([]byte, 1<<16)
	want := sha256.Sum256(data)
	for i := range runtime.GOMAXPROCS(0) + 2 {
		worker(fmt.Sprint("digest ", i), func() error {
			b := make([]byte, len(data)) // memory, and the collector's work
			if got := sha256.Sum256(b); got != want {
				return fmt.Errorf("%x", got)
			}
			return nil
		})
	}
	worker("sleep", func() error {
		before := time.Now()
		<-time.After(time.Millisecond)
		if d := time.Since(before); d < time.Millisecond {
			return fmt.Errorf("slept %s", d)
		}
		return nil
	})
	worker("blocking sleep", func() error {
		wish := unix.Timespec{Nsec: 2e6}
		before := time.Now()
		if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &wish, nil); err != nil && err != unix.EINTR {
			return err
		} else if d := time.Since(before); err == nil && d < 2*time.Millisecond {
			return fmt.Errorf("slept %s", d)
		}
		return nil
	})
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stdout, err)
		return
	}
	var fds [2]int
	if err := unix.Pipe(fds[:]); err != nil { // blocks in read(2)
		fmt.Fprintln(os.Stdout, err)
		return
	}
	var sent, received byte
	worker("write", func() error {
		sent++
		if _, err := unix.Write(fds[1], []byte{sent}); err != nil {
			if stop.Load() {
				w.Close()
				return nil
			}
			return err
		}
		_, err := io.ReadFull(r, make([]byte, 1))
		return err
	})
	worker("read", func() error {
		b := make([]byte, 1)
		for {
			n, err := unix.Read(fds[0], b)
			if err == unix.EINTR {
				continue
			}
			if n == 0 && stop.Load() {
				return nil
			}
			if received++; n != 1 || b[0] != received {
				return fmt.Errorf("%d bytes, %v, want %d: %w", n, b, received, err)
			}
			break
		}
		_, err := w.Write(b)
		return err
	})
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR2)
	worker("signal", func() error {
		if err := unix.Kill(os.Getpid(), unix.SIGUSR2); err != nil {
			return err
		}
		<-signals
		return nil
	})
	fmt.Fprintln(os.Stdout, "ready")
	io.Copy(io.Discard, os.Stdin)
	stop.Store(true)
	unix.Close(fds[1])
	wg.Wait()
	wrong.Range(func(name, err any) bool {
		fmt.Fprintln(os.Stdout, name, err)
		return true
	})
	fmt.Fprintln(os.Stdout, "done")
}

func filterAll(filter []unix.SockFilter) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	// SECCOMP_FILTER_FLAG_TSYNC: for all threads.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// A program full of threads is stopped again and again, and nothing goes wrong in it. Our calls
// are not its calls: one that its seccomp filter kills it for does it no harm.
func TestTorture(t *testing.T) {
	cmd := process(t, "/proc/self/exe", targetCommand)
	in, err := cmd.StdinPipe()
	qt.Assert(t, qt.IsNil(err))
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	pid := start(t, cmd)
	lines := bufio.NewScanner(out)
	qt.Assert(t, qt.IsTrue(lines.Scan()))
	qt.Assert(t, qt.Equals(lines.Text(), "ready"))
	tr := tracer(t)
	for range 200 {
		f, err := tr.Open(pid, inject.Call{Number: unix.SYS_INOTIFY_INIT1, Args: [6]uint64{unix.IN_CLOEXEC}})
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsNil(f.Close()))
		<-time.After(time.Millisecond) // for it to go on
	}
	qt.Assert(t, qt.IsNil(tr.Close()))
	qt.Assert(t, qt.IsNil(in.Close()))
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
	}
	qt.Check(t, qt.Equals(strings.Join(said, "\n"), "done"))
}
