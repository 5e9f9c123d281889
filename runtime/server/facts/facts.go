// Package facts tells how much this host has to do, so that others know which host has room.
package facts

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/snapctl/snapctl/runtime/api"
)

// Facts answers requests.
type Facts struct{}

// ShowFacts implements the API.
func (Facts) ShowFacts(context.Context, *api.HostFactsRequest) (*api.HostFacts, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("look for memory: %w", err)
	}
	m, err := parse(b)
	if err != nil {
		return nil, err
	}
	return &api.HostFacts{MemoryBytes: m["MemTotal"], AvailableMemoryBytes: m["MemAvailable"]}, nil
}

// parse reads what /proc/meminfo says of the memory (proc_meminfo(5)), in bytes.
func parse(b []byte) (map[string]int64, error) {
	m := make(map[string]int64)
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		name, rest, _ := strings.Cut(s.Text(), ":")
		if name != "MemTotal" && name != "MemAvailable" {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
		if err != nil || kb < 0 || kb > 1<<50 {
			return nil, fmt.Errorf("read /proc/meminfo: %s:%s", name, rest)
		}
		m[name] = kb << 10
	}
	if len(m) < 2 {
		return nil, fmt.Errorf("read /proc/meminfo: it does not say how much memory is available")
	}
	return m, nil
}
