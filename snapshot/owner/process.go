package owner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

// id is an owner as the app numbers it.
type id struct {
	kind   openfile.OwnerKind
	number int
}

// read has the targets of all processes, threads and groups of an app.
func read(pids []int) (map[id]target, error) {
	out := make(map[id]target)
	for _, pid := range pids {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended
		}
		if err != nil {
			return nil, fmt.Errorf("list threads of process %d: %w", pid, err)
		}
		for _, t := range threads {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, t.Name()))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("look at thread %s: %w", t.Name(), err)
			}
			addThread(out, string(status))
		}
	}
	return out, nil
}

// addThread adds what /proc/PID/task/TID/status tells: of each number the one that this
// process sees, and last the one that the app has.
func addThread(out map[id]target, status string) {
	outer, inner := make(map[string]int), make(map[string]int)
	for line := range strings.Lines(status) {
		name, values, _ := strings.Cut(line, ":")
		if name != "NSpid" && name != "NStgid" && name != "NSpgid" {
			continue
		}
		numbers := strings.Fields(values)
		if len(numbers) == 0 {
			continue
		}
		outer[name], _ = strconv.Atoi(numbers[0])
		inner[name], _ = strconv.Atoi(numbers[len(numbers)-1])
	}
	process := outer["NStgid"]
	out[id{openfile.OwnerThread, inner["NSpid"]}] = target{kind: openfile.OwnerThread, id: process, thread: outer["NSpid"]}
	out[id{openfile.OwnerProcess, inner["NStgid"]}] = target{kind: openfile.OwnerProcess, id: process}
	out[id{openfile.OwnerGroup, inner["NSpgid"]}] = target{kind: openfile.OwnerGroup, id: outer["NSpgid"]}
}

// setOwner is F_SETOWN_EX.
func setOwner(fd int, to target) error {
	number := to.id
	if to.kind == openfile.OwnerThread {
		number = to.thread
	}
	owner := struct{ kind, pid int32 }{int32(to.kind), int32(number)} //nolint:gosec // ids are such
	_, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), unix.F_SETOWN_EX, uintptr(unsafe.Pointer(&owner)))
	if errno != 0 {
		return errno
	}
	return nil
}
