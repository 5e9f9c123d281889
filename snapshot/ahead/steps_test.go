package ahead_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/ahead"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

// steps changes its memory as it is told, step by step.
func steps() {
	const pages, pageSize = 64 << 8, image.PageSize
	b, err := unix.Mmap(-1, 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(err)
	write := func(from, to int, what byte) {
		for i := from; i < to; i++ {
			b[i*pageSize] = what
		}
	}
	write(0, pages, 1)
	fmt.Fprintln(os.Stdout, "ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch in.Text() {
		case "most":
			write(200, 11000, 4)
		case "much":
			write(100, 6100, 2)
		case "less":
			write(100, 2100, 3)
		case "gap": // what follows can't be read together with what is before
			_, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(unsafe.Pointer(&b[150*pageSize])), pageSize, 0)
			if errno != 0 {
				panic(errno)
			}
		}
		fmt.Fprintln(os.Stdout, "done")
	}
}

// meanwhile is a context that does something once, when it is asked whether it has ended.
type meanwhile struct {
	context.Context //nolint:containedctx // it is one
	do              func()
}

func (m *meanwhile) Err() error {
	m.do()
	return m.Context.Err()
}

// A page that was copied twice, was written to again, and could not be read then, is not as it was copied:
// what follows memory that is gone is not read.
func TestGoneMeanwhile(t *testing.T) {
	testenv.Need(t, testenv.Root)
	leak.Check(t)
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprintf("ends=%v", ends), func(t *testing.T) {
			root := t.TempDir()
			pid, ask := startProgram(t, stepsCommand)
			asked := make(map[string]bool)
			once := func(step string) {
				if !asked[step] {
					asked[step] = true
					ask(step)
				}
			}
			checkWith(t, &meanwhile{t.Context(), func() {
				info, err := os.Stat(filepath.Join(root, "copies/own"))
				if err == nil && info.Size() >= 6000*image.PageSize || ends && asked["much"] {
					once("less")
				}
			}}, root, pid, ends, func(n int) {
				switch {
				case n == 0:
					once("much")
				case n > 1 && asked["less"]:
					once("gap")
				}
			})
			qt.Check(t, qt.IsTrue(asked["gap"]))
		})
	}
}

// Where a dump finds room without the copy, it finds room with it, too.
func TestRoom(t *testing.T) {
	testenv.Need(t, testenv.Root)
	leak.Check(t)
	small := func(t *testing.T, mib int) (dir string) {
		t.Helper()
		dir = t.TempDir()
		qt.Assert(t, qt.IsNil(unix.Mount("small", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib))))
		t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Unmount(dir, unix.MNT_DETACH))) })
		return dir
	}
	pid, ask := startProgram(t, stepsCommand) // it has 64 MiB
	_, err := ahead.Copy(t.Context(), ahead.Options{
		Processes: []ahead.Process{{PID: pid, Inside: 1}}, Tracer: "/proc/self/exe", Least: 256, Dir: small(t, 100),
	})
	qt.Assert(t, qt.ErrorMatches(err, "copy memory: that may take 1.. MiB of room, and 100 MiB are there"))
	qt.Check(t, qt.IsFalse(errors.Is(err, ahead.ErrNothing)))
	root := small(t, 160)
	checkWith(t, t.Context(), root, pid, false, func(n int) {
		if n == 0 {
			ask("much")
		}
	})
	_, err = os.Stat(filepath.Join(root, "copies/own"))
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

// What was copied, and was written to again when the room was gone, is not as it was copied.
func TestRoomIsTaken(t *testing.T) {
	testenv.Need(t, testenv.Root)
	leak.Check(t)
	root := t.TempDir()
	qt.Assert(t, qt.IsNil(unix.Mount("small", root, "tmpfs", 0, "size=250m")))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Unmount(root, unix.MNT_DETACH))) })
	pid, ask := startProgram(t, stepsCommand)
	less, taken := false, false
	checkWith(t, &meanwhile{t.Context(), func() {
		info, err := os.Stat(filepath.Join(root, "copies/own"))
		if err == nil && info.Size() >= 6000*image.PageSize && !less {
			less = true
			ask("less")
		}
	}}, root, pid, false, func(n int) {
		switch {
		case n == 0:
			ask("much")
		case less && !taken:
			taken = true
			qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(root, "taken"), make([]byte, 120<<20), 0o600)))
		}
	})
	qt.Check(t, qt.IsTrue(taken))
}
