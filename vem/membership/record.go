package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/snapctl/snapctl/vem/directory"
)

// phase is how far a host is on its way into an installation.
type phase string

const (
	joining phase = "joining" // it was let in, and may not be in the directory yet
	joined  phase = "joined"
	leaving phase = "leaving" // the others may have been told that it leaves
	left    phase = "left"    // it is to forget all of it
)

// record is what a host remembers of its installation, besides keys and certificates. It is
// written when all that it tells of is on the disk.
type record struct {
	Phase     phase           `json:"phase"`
	Place     place           `json:"place"`
	Directory []string        `json:"directory"`
	Known     directory.Known `json:"known"`
	Private   []string        `json:"private,omitempty"` // networks
	Force     bool            `json:"force,omitempty"`   // it leaves whatever is in the way
}

// place is a Place on the disk.
type place struct {
	Name      string               `json:"name"`
	Addresses []directory.Underlay `json:"addresses"`
	Port      uint16               `json:"port"`
}

func placeOf(p Place) place {
	return place{Name: p.Name, Port: p.Port, Addresses: Underlays(p.Addresses)}
}

// Underlays are addresses as the directory has them.
func Underlays(list []Address) (all []directory.Underlay) {
	for _, a := range list {
		all = append(all, directory.Underlay{Addr: a.Addr, Interface: a.Device, Priority: a.Priority})
	}
	return all
}

func (d place) place() Place {
	p := Place{Name: d.Name, Port: d.Port}
	for _, u := range d.Addresses {
		p.Addresses = append(p.Addresses, Address{Addr: u.Addr, Device: u.Interface, Priority: u.Priority})
	}
	return p
}

func (m *Membership) recordFile() string { return filepath.Join(m.opt.Dir, "membership.json") }

// load reads the record. Returns an error wrapping fs.ErrNotExist if there is none.
func (m *Membership) load() (r record, err error) {
	b, err := os.ReadFile(m.recordFile())
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s is damaged: %w", m.recordFile(), err)
	}
	return r, nil
}

// save writes the record aside and renames it: if it fails the old one is there.
func (m *Membership) save(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(m.opt.Dir, 0o700); err != nil {
		return err
	}
	aside := m.recordFile() + ".new"
	f, err := os.OpenFile(aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", m.recordFile(), err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(aside, m.recordFile())
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", m.recordFile(), err), os.Remove(aside))
	}
	dir, err := os.Open(m.opt.Dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close()) // fsync(2), NOTES
}
