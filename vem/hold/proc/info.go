package proc

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// FDInfo reads the lines of /proc/PID/fdinfo/FD that have a name: values by names.
func FDInfo(pid, fd int) (map[string]string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	out := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok {
			out[name] = strings.TrimSpace(value)
		}
	}
	return out, lines.Err()
}
