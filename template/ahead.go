package template

import (
	"errors"
	"fmt"
	"os"
)

// Ahead prepares a clone that nobody has asked for yet: it does the part of the rules that
// does not depend on the clone's name, number or address. It checks that no rule changes a
// file that is in open, as [Plan.CheckOpen] does, and writes a machine id. root is as for
// [Plan.Apply]; no process of the clone has run.
//
// When the clone's plan is made, [Plan.Done] takes out of the plan what Ahead has done.
func (r *Rules) Ahead(root string, open []string) (err error) {
	p := &Plan{MachineID: r.planMachineID()}
	for _, one := range r.Redirect {
		p.Redirects = append(p.Redirects, PlannedRedirect{Path: one.Path})
	}
	for _, one := range r.Files {
		p.Files = append(p.Files, PlannedFile{Path: one.Path})
	}
	if err := p.CheckOpen(root, open); err != nil {
		return err
	}
	if !p.idFirst() {
		return nil
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("write machine id: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return cloneTree{root: dir}.machineID(p.MachineID)
}

// Done takes out of a plan what [Rules.Ahead] has done for its clone.
func (p *Plan) Done() {
	if p.idFirst() {
		p.MachineID = PlannedMachineID{}
	}
}

// idFirst tells whether the machine id may be written before all else: a link or a
// file of the rules could be where it is.
func (p *Plan) idFirst() bool { return len(p.Redirects) == 0 && len(p.Files) == 0 }
