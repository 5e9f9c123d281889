package track

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
)

// area is a mapping whose pages may be tracked.
type area struct{ start, end uint64 }

// Flags of a mapping in /proc/PID/smaps (fs/proc/task_mmu.c, show_smap_vma_flags) with which it can't be
// mapped from a file (memmap.mappable), or that CRIU takes for something else than private anonymous
// memory. A stack's pages come and go by a rule of its own, and a userfaultfd that is not ours notes its
// own.
var unfitFlags = map[string]bool{
	"sh": true,             // shared
	"gd": true,             // grows down
	"lo": true,             // locked
	"ht": true, "hg": true, // huge pages
	"dc": true, "wf": true, "mg": true, "dp": true, // not copied or wiped on fork, merged, droppable
	"io": true, "pf": true, "mm": true, // devices
	"ss": true,                         // shadow stack
	"um": true, "uw": true, "ui": true, // userfaultfd(2)
}

// memory is what /proc/PID/smaps tells of a process.
type memory struct {
	fit   []area // ascending
	pages uint64 // that the fit ones hold, also in swap
	ring  bool   // there is one of io_setup(2)
}

// readMemory reads /proc/PID/smaps of a process. The kernel looks at each page for that: some 15 ms for
// 1 GiB.
func readMemory(pid int) (memory, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return memory{}, err
	}
	defer f.Close() //nolint:errcheck // only read from
	m, err := parseMemory(f)
	if errors.Is(err, unix.ESRCH) {
		return memory{}, ErrEnded
	}
	return m, err
}

func parseMemory(r io.Reader) (m memory, err error) {
	var (
		current area
		fit     bool
		pages   uint64
	)
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 64<<10), 1<<20)
	for in.Scan() {
		line := in.Bytes()
		key, value, isField := bytes.Cut(line, []byte(":"))
		if !isField || bytes.IndexByte(key, ' ') >= 0 { // 7f00-7f10 rw-p 00000000 00:00 0 [name:with a colon]
			if current, fit, err = parseHeader(string(line)); err != nil {
				return memory{}, err
			}
			m.ring = m.ring || bytes.Contains(line, []byte(" /[aio]"))
			pages = 0
			continue
		}
		switch string(key) {
		case "Rss", "Swap":
			kib, _, _ := strings.Cut(strings.TrimSpace(string(value)), " ")
			n, err := strconv.ParseUint(kib, 10, 64)
			if err != nil {
				return memory{}, fmt.Errorf("read memory: %q: %w", line, err)
			}
			pages += n << 10 / image.PageSize
		case "VmFlags": // the last line of a mapping
			if fit && !slices.ContainsFunc(strings.Fields(string(value)), func(f string) bool { return unfitFlags[f] }) {
				m.fit = append(m.fit, current)
				m.pages += pages
			}
		}
	}
	if err := in.Err(); err != nil {
		return memory{}, fmt.Errorf("read memory: %w", err)
	}
	return m, nil
}

// parseHeader reads the first line of a mapping, and tells whether it is private anonymous memory
// without code.
func parseHeader(line string) (area, bool, error) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return area{}, false, fmt.Errorf("read memory: %q is no mapping", line)
	}
	from, to, _ := strings.Cut(fields[0], "-")
	start, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return area{}, false, fmt.Errorf("read memory: %q: %w", line, err)
	}
	end, err := strconv.ParseUint(to, 16, 64)
	if err != nil {
		return area{}, false, fmt.Errorf("read memory: %q: %w", line, err)
	}
	mode, inode := fields[1], fields[4]
	plain := len(fields) == 5 || fields[5] == "[heap]" || strings.HasPrefix(fields[5], "[anon:")
	return area{start, end}, plain && inode == "0" && len(mode) == 4 && mode[2] != 'x' && mode[3] == 'p', nil
}
