package paths

import (
	"bufio"
	"os"
	"strconv"
	"strings"
)

// use is one way in which a process has a file.
type use struct {
	pid        int
	link       string // in /proc
	how        string // completes "process 12 (top) ..."
	descriptor bool
}

// usesOf lists the files that a process has.
func usesOf(pid int) ([]use, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	uses := []use{
		{pid: pid, link: dir + "/cwd", how: "has a working directory"},
		{pid: pid, link: dir + "/root", how: "has a root directory"},
		{pid: pid, link: dir + "/exe", how: "runs a program"},
	}
	fds, err := os.Open(dir + "/fd")
	if err != nil {
		return nil, err
	}
	defer fds.Close() //nolint:errcheck // only read from
	names, err := fds.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		uses = append(uses, use{pid: pid, link: dir + "/fd/" + name, how: "has a file open as descriptor " + name, descriptor: true})
	}
	maps, err := os.Open(dir + "/maps")
	if err != nil {
		return nil, err
	}
	defer maps.Close() //nolint:errcheck // only read from
	seen := make(map[string]bool)
	lines := bufio.NewScanner(maps)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// 7f..-7f.. r-xp 00000000 08:01 1234   /usr/lib/libc.so.6
		fields := strings.SplitN(lines.Text(), " ", 6)
		if len(fields) < 6 || fields[4] == "0" {
			continue
		}
		if file := fields[3] + fields[4] + fields[5]; !seen[file] {
			seen[file] = true
			uses = append(uses, use{pid: pid, link: mapFile(dir, fields[0]), how: "maps a file"})
		}
	}
	return uses, lines.Err()
}

// mapFile is the link to a mapped file. Its name has no leading zeros, and maps has
// (fs/proc/base.c, dname_to_vma_addr).
func mapFile(dir, addresses string) string {
	from, to, _ := strings.Cut(addresses, "-")
	return dir + "/map_files/" + trimZeros(from) + "-" + trimZeros(to)
}

func trimZeros(address string) string {
	if s := strings.TrimLeft(address, "0"); s != "" {
		return s
	}
	return "0"
}
