package template

import (
	"errors"
	"fmt"
	"os"
	"path"
)

// CheckOpen checks that nothing is changed under a frozen process. open are the
// paths, as the clone sees them, that processes of the snapshot have open, mapped,
// as their program or as their working directory: CRIU opens these again by their
// path, and expects what was there. root is the clone's root directory, or the
// saved one, by which links on the way are followed; it is only read.
//
// Returns an error wrapping ErrInvalid that names all that is in the way.
func (p *Plan) CheckOpen(root string, open []string) (err error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("check open files: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	t := cloneTree{root: dir}
	var f finder
	for _, file := range p.Files {
		if err := t.refuseOpen(&f, open, file.Path, "files", "it can't be written: have the program close it before it is saved, or let run change it"); err != nil {
			return err
		}
	}
	for i, name := range machineIDs {
		if p.MachineID.ID == "" || i > 0 && !t.has(name) {
			continue
		}
		if err := t.refuseOpen(&f, open, name, "machine_id", "it can't be replaced: have the program close it before it is saved, or use keep"); err != nil {
			return err
		}
	}
	if err := t.refuseOpen(&f, open, InstancePath, "", "it can't be replaced: programs have to close it when they have read it"); err != nil {
		return err
	}
	for _, r := range p.Redirects {
		link, err := t.resolve(r.Path, keepLast)
		if err != nil {
			return fmt.Errorf("check open files: %w", err)
		}
		for _, name := range open {
			if below(path.Clean(name), link) {
				f.bad("redirect", "%s is open in the snapshot, so %s can't be redirected: only what is closed when the app is saved can be", name, r.Path)
			}
		}
	}
	return f.err()
}

// refuseOpen notes a file that is open.
func (t cloneTree) refuseOpen(f *finder, open []string, file, rule, why string) error {
	where, err := t.resolve(file, followLast)
	if err != nil {
		return fmt.Errorf("check open files: %w", err)
	}
	for _, name := range open {
		if path.Clean(name) == where {
			f.bad(rule, "%s is open in the snapshot, so %s", name, why)
		}
	}
	return nil
}

// has tells whether there is such a file.
func (t cloneTree) has(name string) bool {
	where, err := t.resolve(name, followLast)
	if err != nil {
		return false
	}
	_, err = t.root.Lstat(local(where))
	return err == nil
}
