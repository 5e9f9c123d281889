package ahead

import (
	"fmt"
	"os"
	"strings"

	"github.com/snapctl/snapctl/snapshot/image/memmap"
)

// unmappable tells whether none of a process's memory could be mapped from a copy. To copy it would be of no
// use then: all of it would have to be copied once more, to the dump, while the process may stand still.
func unmappable(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return false // it has ended
	}
	for line := range strings.Lines(string(b)) {
		_, path, isFile := strings.Cut(line, "/")
		if fields := strings.Fields(line); isFile && strings.Contains(fields[1], "x") && memmap.MapsNothing("/"+strings.TrimSuffix(path, "\n")) {
			return true
		}
	}
	return false
}
