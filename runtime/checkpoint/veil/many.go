package veil

import (
	"errors"
	"slices"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// Many tells whether processes, which may run, have so many descriptors that they may have so many
// connections; with a limit of 0 they never have.
func Many(pids []int, limit int) (bool, error) {
	if limit <= 0 {
		return false, nil
	}
	count := 0
	for _, pid := range pids {
		fds, err := proc.Descriptors(pid)
		if err != nil && !errors.Is(err, proc.ErrGone) {
			return false, err
		}
		if count += len(fds); count >= limit {
			return true, nil
		}
	}
	return false, nil
}

// Besides lists the descriptors of processes that are no connections of a set.
func Besides(pids []int, set *hold.Set) (map[int][]int, error) {
	connections := make(map[hold.Owner]bool)
	for i := range set.Sockets {
		if s := &set.Sockets[i]; s.Kind == hold.TCP && s.Remote.IsValid() {
			for _, owner := range s.Owners {
				connections[owner] = true
			}
		}
	}
	out := make(map[int][]int, len(pids))
	for _, pid := range pids {
		fds, err := proc.Descriptors(pid)
		if err != nil {
			return nil, err
		}
		out[pid] = slices.DeleteFunc(fds, func(fd int) bool { return connections[hold.Owner{PID: pid, FD: fd}] })
	}
	return out, nil
}
