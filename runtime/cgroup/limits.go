package cgroup

import (
	"fmt"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// CRIU is in the app's cgroup while it restores the app: CRIU itself, and a helper for each
// process group or session whose leader has ended. So the app's limits are raised by this much
// for a restore. Otherwise an app at its limit of processes could never wake.
const (
	roomProcesses   = 1024
	roomMemoryBytes = 256 << 20
)

// Roomy are the limits to restore an app under; nil if it has none that a
// restore could meet.
func Roomy(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil {
		return nil
	}
	roomy := &specs.LinuxResources{}
	if r.Pids != nil && r.Pids.Limit != nil {
		limit := *r.Pids.Limit + roomProcesses
		roomy.Pids = &specs.LinuxPids{Limit: &limit}
	}
	if r.Memory != nil && r.Memory.Limit != nil {
		limit := *r.Memory.Limit + roomMemoryBytes
		roomy.Memory = &specs.LinuxMemory{Limit: &limit}
	}
	if roomy.Pids == nil && roomy.Memory == nil {
		return nil
	}
	return roomy
}

// SetLimits changes the limits of an existing cgroup that r has.
func (g *Group) SetLimits(r *specs.LinuxResources) error {
	if g.parent.unified {
		m, err := cgroup2.Load(g.name, cgroup2.WithMountpoint(g.parent.mount))
		if err == nil {
			err = m.Update(cgroup2.ToResources(r))
		}
		if err != nil {
			return fmt.Errorf("set limits of cgroup %s: %w", g.name, err)
		}
		return nil
	}
	cg, err := cgroup1.Load(cgroup1.StaticPath(g.name), cgroup1.WithHierarchy(g.parent.hierarchy))
	if err == nil {
		err = cg.Update(r)
	}
	if err != nil {
		return fmt.Errorf("set limits of cgroup %s: %w", g.name, err)
	}
	return nil
}
