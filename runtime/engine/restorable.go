package engine

import (
	"context"
	"errors"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/template"
)

// An app is not to be ended by a snapshot of which no app could be made. Whatever
// `restore` would refuse and is known already has `snapshot --stop` refused, before the
// app is frozen where it can be seen by then. Without --stop it is a note: the app goes on,
// and what is in the way may be gone when the snapshot is needed.

// atOnce joins what is in the way of a snapshot that ends the app. What is in the way of
// another one is noted, and nil returned.
func (r *SnapshotRequest) atOnce(a *App, inTheWay ...error) error {
	err := errors.Join(inTheWay...)
	if err == nil || r.Stop {
		return err
	}
	for _, o := range ObstaclesOf(inTheWay...) {
		a.Remark("no app could be made of the snapshot now: "+o.Reason, o.Remedy)
	}
	return nil
}

// unrestorable looks at a running app for what would keep others from being made of it, but
// for what preflight finds; nil if nothing does.
func (eng *Engine) unrestorable(a *App) (found, err error) {
	pids, err := a.Cgroup().PIDs()
	if err != nil {
		return nil, err
	}
	var open []string
	for _, pid := range pids {
		open = append(open, openAt(pid, path.Base(template.InstancePath))...)
	}
	if err := template.CheckInstance(a.Box.Root(), open); err != nil {
		return refusal{err}, nil
	}
	return nil, nil
}

// openAt lists the files of a name that a process has open.
func openAt(pid int, base string) (names []string) {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	entries, _ := os.ReadDir(dir) // it may have ended
	for _, e := range entries {
		if name, err := os.Readlink(dir + "/" + e.Name()); err == nil && path.Base(name) == base {
			names = append(names, name)
		}
	}
	return names
}

// heldUnrestorable looks at the images of a held app for the same.
func (eng *Engine) heldUnrestorable(ctx context.Context, a *App) ([]error, error) {
	m, err := a.Hibernation().Manifest()
	if err != nil {
		return nil, err
	}
	rec, _ := a.Read()
	if !a.ready { // its root may not be mounted: all that can be told without it
		return eng.obstacles(ctx, restore.Options{Snapshot: a.Hibernation(), Manifest: m, Place: restore.Place{Root: a.Box.Root()}}, rec, snapshot.BySize), nil
	}
	files, err := openfile.ReadSaved(ctx, a.Hibernation().Images())
	if err != nil {
		return nil, err
	}
	errs := eng.tools.Damage(ctx, a.Hibernation(), m, rec.Layers, snapshot.BySize) // a rehearsal leaves memory out
	if err := template.CheckInstance(a.Box.Root(), openNames(files)); err != nil {
		errs = append(errs, refusal{err})
	}
	return append(errs, flatten(eng.tools.Rehearse(ctx, a.Subject(), a.Hibernation(), m))...), nil
}

// openNames are the names of files that processes of a dump have open.
func openNames(files []openfile.Saved) []string {
	var names []string
	for _, f := range files {
		if strings.HasPrefix(f.Name, "/") && !f.Removed && !f.External {
			names = append(names, f.Name)
		}
	}
	return names
}

// flatten is all errors that are joined in one.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	several, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(several.Unwrap()...).Error() != err.Error() { // it says more than they do
		return []error{err}
	}
	var all []error
	for _, one := range several.Unwrap() {
		all = append(all, flatten(one)...)
	}
	return all
}
