// Package scratch keeps account of the directories, cgroups and processes of
// scratch hosts, so that they can be taken away by whoever is left to do it:
// the test that made the host, the host's keeper process if that test was
// killed, or the next run if both were.
package scratch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/internal/cgroup"
	"github.com/snapctl/snapctl/testenv/internal/lock"
	"github.com/snapctl/snapctl/testenv/internal/mount"
	"github.com/snapctl/snapctl/testenv/internal/process"
)

const (
	prefix = "snapctl-host-"
	marker = "owner.json"
	bootID = "/proc/sys/kernel/random/boot_id"
)

// Place is the directory of one scratch host; its base name also names the
// host's cgroups.
type Place struct {
	Dir   string
	owner owner
}

// owner names the process that made a place, for ever.
type owner struct {
	PID        int    `json:"pid"`
	StartTicks uint64 `json:"start_ticks"`
	BootID     string `json:"boot_id"`
}

// Make makes the place of a new host below base, which is made too.
func Make(base string) (*Place, error) {
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, fmt.Errorf("make scratch host: %w", err)
	}
	self, err := process.Get(os.Getpid())
	if err != nil {
		return nil, err
	}
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return nil, fmt.Errorf("make scratch host: %w", err)
	}
	p := &Place{owner: owner{PID: self.PID, StartTicks: self.Start, BootID: strings.TrimSpace(string(boot))}}
	b, err := json.Marshal(p.owner)
	if err != nil {
		return nil, fmt.Errorf("make scratch host: %w", err)
	}
	// A sweeper must never see it without its owner: renamed when complete.
	dir, err := os.MkdirTemp(base, ".new-")
	if err != nil {
		return nil, fmt.Errorf("make scratch host: %w", err)
	}
	p.Dir = filepath.Join(base, prefix+strings.TrimPrefix(filepath.Base(dir), ".new-"))
	err = os.WriteFile(filepath.Join(dir, marker), b, 0o644)
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.Rename(dir, p.Dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make scratch host: %w", err), os.RemoveAll(dir))
	}
	return p, nil
}

// Open returns the place in dir, which [Make] made.
func Open(dir string) (*Place, error) {
	if !strings.HasPrefix(filepath.Base(dir), prefix) {
		return nil, fmt.Errorf("open scratch host: %s is none", dir)
	}
	b, err := os.ReadFile(filepath.Join(dir, marker))
	if err != nil {
		return nil, fmt.Errorf("open scratch host: %w", err)
	}
	p := &Place{Dir: dir}
	if err := json.Unmarshal(b, &p.owner); err != nil {
		return nil, fmt.Errorf("open scratch host %s: %w", dir, err)
	}
	return p, nil
}

// Sweep takes away the places below base whose owner has ended. One process
// does so at a time.
func Sweep(ctx context.Context, base string) error {
	if err := os.MkdirAll(base, 0o755); err != nil {
		return fmt.Errorf("sweep scratch hosts: %w", err)
	}
	unlock, err := lock.Take(filepath.Join(base, ".sweep"))
	if err != nil {
		return fmt.Errorf("sweep scratch hosts: %w", err)
	}
	defer unlock()
	places, err := stale(base)
	if err != nil {
		return fmt.Errorf("sweep scratch hosts: %w", err)
	}
	for _, place := range places {
		tree, err := place.Cgroups()
		if err == nil {
			err = Kill(ctx, tree, func() ([]int, error) { return nil, nil })
		}
		if err == nil {
			err = place.Remove(ctx)
		}
		if err != nil {
			return fmt.Errorf("sweep scratch host %s: %w", place.Dir, err)
		}
	}
	return nil
}

func stale(base string) ([]*Place, error) {
	dirs, err := filepath.Glob(filepath.Join(base, prefix+"*"))
	if err != nil {
		return nil, err
	}
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return nil, err
	}
	var places []*Place
	for _, dir := range dirs {
		p, err := Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its owner is just removing it
		}
		if err != nil {
			return nil, err
		}
		now, err := process.Get(p.owner.PID)
		if err != nil && !errors.Is(err, process.ErrGone) {
			return nil, err
		}
		alive := err == nil && now.Start == p.owner.StartTicks && !now.Zombie() &&
			p.owner.BootID == strings.TrimSpace(string(boot))
		if !alive {
			places = append(places, p)
		}
	}
	return places, nil
}

// Cgroups is the host's cgroup subtree, as seen from the machine.
func (p *Place) Cgroups() (*cgroup.Tree, error) { return cgroup.Open(filepath.Base(p.Dir)) }

// Kill ends every process in the cgroups of tree and waits for it. also names
// more processes, and is asked again until it has none. The caller is spared.
func Kill(ctx context.Context, tree *cgroup.Tree, also func() ([]int, error)) error {
	if err := tree.Thaw(); err != nil {
		return err
	}
	list := func() ([]int, error) {
		pids, err := tree.Procs()
		if err != nil {
			return nil, err
		}
		more, err := also()
		return append(pids, more...), err
	}
	for {
		n, err := killOnce(ctx, list)
		if n == 0 || err != nil {
			return err
		}
	}
}

// killOnce ends those listed now, and tells how many there were. They are
// opened and then listed again: one that is still listed is the one that was
// opened, or that one is dead. An id that was given away in between is not.
func killOnce(ctx context.Context, list func() ([]int, error)) (int, error) {
	pids, err := list()
	if err != nil {
		return 0, err
	}
	var handles []*process.Handle
	defer func() {
		for _, h := range handles {
			_ = h.Close()
		}
	}()
	for _, pid := range pids {
		if pid == os.Getpid() {
			continue
		}
		h, operr := process.Open(pid)
		if errors.Is(operr, process.ErrGone) {
			continue
		}
		if operr != nil {
			return 0, operr
		}
		handles = append(handles, h)
	}
	if pids, err = list(); err != nil {
		return 0, err
	}
	handles = slices.DeleteFunc(handles, func(h *process.Handle) bool {
		if slices.Contains(pids, h.PID()) {
			return false
		}
		_ = h.Close()
		return true
	})
	for _, h := range handles {
		if err = h.Kill(); err != nil {
			return 0, err
		}
	}
	for _, h := range handles {
		if err = h.Wait(ctx); err != nil {
			return 0, err
		}
	}
	return len(handles), nil
}

// Remove removes the host's cgroups and its directory. Its processes must have
// ended. What is still mounted below the directory is detached first: to
// remove a tree through a mount would reach far beyond.
func (p *Place) Remove(ctx context.Context) error {
	tree, err := p.Cgroups()
	if err != nil {
		return err
	}
	if err = tree.Remove(ctx); err != nil {
		return err
	}
	mounts, err := mount.List("self")
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if !strings.HasPrefix(m.Point, p.Dir+"/") {
			continue
		}
		if err = unix.Unmount(m.Point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Point, err)
		}
	}
	// The marker goes last: without it nobody would take the rest away.
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		return fmt.Errorf("remove scratch host: %w", err)
	}
	for _, e := range entries {
		if e.Name() == marker {
			continue
		}
		if err := os.RemoveAll(filepath.Join(p.Dir, e.Name())); err != nil {
			return fmt.Errorf("remove scratch host: %w", err)
		}
	}
	if err := os.RemoveAll(p.Dir); err != nil {
		return fmt.Errorf("remove scratch host: %w", err)
	}
	return nil
}
