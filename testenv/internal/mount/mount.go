// Package mount reads mount tables.
package mount

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// Mount is one line of a mount table, proc_pid_mountinfo(5).
type Mount struct {
	Root   string // path in its file system that is mounted; net:[inode] for a namespace
	Point  string // where
	FSType string
	Source string
}

// List returns the mounts that a process sees, oldest first; process is a
// process id or "self".
func List(process string) ([]Mount, error) {
	f, err := os.Open("/proc/" + process + "/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	var all []Mount
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20) // an overlay of many layers has a long line
	for in.Scan() {
		head, tail, ok := strings.Cut(in.Text(), " - ")
		fields, more := strings.Fields(head), strings.Fields(tail)
		if !ok || len(fields) < 6 || len(more) < 2 {
			return nil, fmt.Errorf("parse mount %q", in.Text())
		}
		all = append(all, Mount{
			Root: unescape.Replace(fields[3]), Point: unescape.Replace(fields[4]),
			FSType: more[0], Source: unescape.Replace(more[1]),
		})
	}
	return all, in.Err()
}

// unescape undoes what the kernel escapes in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
