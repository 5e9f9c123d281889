package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
)

// saving is what saving an app cost.
type saving struct{ frozen, mib float64 } // in ms, and of new bytes on the disk

// delta measures what it costs to save a process again of whose memory little has
// changed: it was woken in between, so that its memory is a mapping of what was
// saved before, and a part of it was written to since. In "again" it was not: what changed
// is found by content.
func delta(ctx context.Context, b *rig.Bench) error {
	total, changed, passes := 1024, 64, min(b.Passes, 3)
	if b.Small {
		total, changed = 128, 8
	}
	name := fmt.Sprintf("memory=%dMiB,changed=%dMiB", total, changed)
	if !b.Wants("delta/snapshot/"+name) && !b.Wants("delta/hibernate/"+name) && !b.Wants("delta/again/"+name) {
		return nil
	}
	all := make(map[string][]saving)
	err := rig.WithWorld(ctx, func(w *rig.World) error {
		for pass := range passes {
			if err := savings(ctx, w, all, total, changed, pass); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	middle := func(key string) saving {
		var frozen, mib []float64
		for _, s := range all[key] {
			frozen, mib = append(frozen, s.frozen), append(mib, s.mib)
		}
		return saving{report.Median(frozen), report.Median(mib)}
	}
	for _, op := range []string{"snapshot", "hibernate"} {
		first, second := middle(op+"/first"), middle(op+"/second")
		frozen := report.Row{
			Name: "delta/" + op + "/" + name + "/frozen", Unit: "ms frozen", Ours: second.frozen, Other: first.frozen,
			OtherName: "first " + op,
		}
		if !b.Small { // else most of the time does not depend on memory
			frozen.Goal = 1.0 / 8
		}
		b.Report.Add(frozen)
		b.Report.Add(report.Row{
			Name: "delta/" + op + "/" + name + "/disk", Unit: "MiB", Ours: second.mib, Other: first.mib,
			OtherName: "first " + op, Goal: float64(changed) * 1.25, GoalOn: "ours",
		})
	}
	first, again := middle("snapshot/first"), middle("snapshot/again")
	b.Report.Add(report.Row{
		Name: "delta/again/" + name + "/disk", Unit: "MiB", Ours: again.mib, Other: first.mib,
		OtherName: "first snapshot", Goal: float64(changed) * 1.25, GoalOn: "ours",
	})
	return nil
}

// savings measures one app: three snapshots, and two hibernations.
func savings(ctx context.Context, w *rig.World, all map[string][]saving, total, changed, pass int) error {
	g, err := w.Gauge(ctx, "subject", rig.Endpoint, total)
	if err != nil {
		return err
	}
	defer g.Close()
	measure := func(key string, save func() (*api.Result, error)) error {
		before, err := diskUse(w.StateDir())
		if err != nil {
			return err
		}
		r, err := save()
		if err != nil {
			return err
		}
		after, err := diskUse(w.StateDir())
		if err != nil {
			return err
		}
		frozen := time.Duration(r.GetFrozenUs()) * time.Microsecond
		all[key] = append(all[key], saving{frozen: rig.MS(frozen), mib: float64(after.since(before)) / (1 << 20)})
		return nil
	}
	hibernate := func() (*api.Result, error) {
		return w.API.Hibernate(ctx, &api.HibernateRequest{Name: "subject"}, nil)
	}
	snapshot := func(name string) func() (*api.Result, error) {
		return func() (*api.Result, error) {
			return w.API.TakeSnapshot(ctx, &api.SnapshotRequest{App: "subject", Name: name}, nil)
		}
	}
	change := func(seed int) error {
		_, err := g.Do("change", changed, seed)
		return err
	}
	if err := measure("snapshot/first", snapshot("first")); err != nil {
		return err
	}
	if err := change(10*pass + 5); err != nil {
		return err
	}
	if err := measure("snapshot/again", snapshot("again")); err != nil {
		return err
	}
	// What a snapshot has is not stored again: then this would be no first.
	for _, name := range []string{"again", "first"} {
		if err := w.API.RemoveSnapshot(ctx, name); err != nil {
			return err
		}
	}
	if err := change(10*pass + 2); err != nil {
		return err
	}
	if err := measure("hibernate/first", hibernate); err != nil {
		return err
	}
	if _, err := w.API.Wake(ctx, &api.WakeRequest{Name: "subject"}, nil); err != nil {
		return err
	}
	if err := change(10*pass + 3); err != nil {
		return err
	}
	if err := measure("snapshot/second", snapshot("second")); err != nil {
		return err
	}
	if err := change(10*pass + 4); err != nil {
		return err
	}
	if err := measure("hibernate/second", hibernate); err != nil {
		return err
	}
	// It has to be alive and well after all that.
	if _, err := w.API.Wake(ctx, &api.WakeRequest{Name: "subject"}, nil); err != nil {
		return err
	}
	if _, err := g.Do("read"); err != nil {
		return err
	}
	if err := w.API.RemoveSnapshot(ctx, "second"); err != nil {
		return err
	}
	return w.Remove(ctx, "subject")
}

// disk is what files take on a disk, in bytes, by their inodes.
type disk map[uint64]int64

// diskUse looks at all files below a directory. Files that go away meanwhile are
// not counted: the daemon removes what nobody needs in the background.
func diskUse(dir string) (disk, error) {
	d := make(disk)
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() {
			d[st.Ino] = st.Blocks * 512
		}
		return nil
	})
	return d, err
}

// since is by how many bytes files are new or larger.
func (d disk) since(before disk) int64 {
	var n int64
	for inode, bytes := range d {
		n += max(0, bytes-before[inode])
	}
	return n
}
