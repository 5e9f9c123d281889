package rig

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Charged is what all apps' own cgroups are charged for, in KiB: the tmpfs at
// /dev, the kernel's part (sockets and what the network namespace has), and
// page cache, which goes when memory is short. It is 0 on a host that does not
// say.
func (w *World) Charged(ctx context.Context) (int, error) {
	apps, err := w.API.List(ctx)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, a := range apps {
		total += int(a.GetMemoryBytes() >> 10)
	}
	return total, nil
}

// The parts of a [World.Footprint].
const (
	daemonPart = "memory"        // see [World.Memory]
	cgroupPart = "cgroup"        // see [World.Charged]; most of it is also in the next two
	kernelPart = "kernel"        // what the kernel can't give back: devices, namespaces, cgroups, sockets
	cachesPart = "kernel-caches" // what it gives back when memory is short: inodes and names of files
)

// FootprintParts names the parts of a [World.Footprint].
func FootprintParts() []string { return []string{daemonPart, cgroupPart, kernelPart, cachesPart} }

// Footprint is what apps cost that are held, by its parts, in KiB. That of the kernel is the whole
// machine's, so on a machine that does something else too it means little. It waits first until
// daemon and kernel have cleaned up: the kernel takes some seconds to end a network namespace.
func (w *World) Footprint(ctx context.Context) (map[string]int, error) {
	Rest(ctx, 5*time.Second)
	m, err := Sizes("/proc/meminfo")
	if err != nil {
		return nil, err
	}
	parts := map[string]int{
		kernelPart: m["SUnreclaim"] + m["Percpu"] + m["KernelStack"] + m["PageTables"] + m["VmallocUsed"],
		cachesPart: m["SReclaimable"],
	}
	if parts[daemonPart], err = w.Memory(); err != nil {
		return nil, err
	}
	parts[cgroupPart], err = w.Charged(ctx)
	return parts, err
}

// Memory is what the host's daemon and holder use, in KiB: their proportional
// share of every page. The kernel's part (sockets, namespaces) is not in it.
func (w *World) Memory() (int, error) {
	pids, err := w.Pids()
	if err != nil {
		return 0, err
	}
	total := 0
	for _, pid := range pids {
		n, err := pss(pid)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func pss(pid int) (int, error) {
	m, err := Rollup(pid)
	return m["Pss"], err
}

// Rollup is what the kernel says of all memory of a process, in KiB, by the names
// of proc_pid_smaps(5).
func Rollup(pid int) (map[string]int, error) {
	return Sizes(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
}

// Sizes reads a file of lines such as "MemAvailable:  123 kB".
func Sizes(path string) (map[string]int, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := make(map[string]int)
	in := bufio.NewScanner(f)
	for in.Scan() {
		name, value, _ := strings.Cut(in.Text(), ":")
		if fields := strings.Fields(value); len(fields) == 2 && fields[1] == "kB" {
			if m[name], err = strconv.Atoi(fields[0]); err != nil {
				return nil, fmt.Errorf("read %s: %w", path, err)
			}
		}
	}
	return m, in.Err()
}
