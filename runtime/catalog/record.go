package catalog

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

const recordVersion = 1

// record is what is kept of a template on the disk.
type record struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	Snapshot  string    `json:"snapshot"`
	// Own tells that the snapshot was taken for the template and goes with it.
	Own   bool   `json:"own,omitempty"`
	Rules string `json:"rules_yaml,omitempty"`
	Pool  int    `json:"pool_size,omitempty"`
	// Half is set while the template is made or removed: what a daemon that died
	// left of it goes, and the snapshot with it if it is the template's own.
	Half bool `json:"half,omitempty"`
}

func (c *Catalog) file(name string) string { return filepath.Join(c.opt.Dir, name+".json") }

// write persists a template; r has what may change of it.
func (c *Catalog) write(t *Template, r record) error {
	r.Version, r.Name, r.CreatedAt, r.Snapshot, r.Own, r.Rules = recordVersion, t.Name, t.CreatedAt, t.Snapshot, t.Own, t.RulesText
	return journal.Write(c.file(t.Name), r, journal.Forever)
}

// load reads a template, or removes what is left of one that was being made or removed.
func (c *Catalog) load(name string) error {
	var r record
	if err := journal.Read(c.file(name), &r); err != nil {
		return err
	}
	switch {
	case r.Version != recordVersion:
		return fmt.Errorf("version %d, this snapctld reads %d", r.Version, recordVersion)
	case r.Name != name, snapshot.ValidateName(name) != nil:
		return fmt.Errorf("it is of template %q", r.Name)
	case snapshot.ValidateName(r.Snapshot) != nil:
		return fmt.Errorf("its snapshot is %q", r.Snapshot)
	}
	t := newTemplate(r)
	if r.Half {
		t.claim = c.opt.Store.Expect(t.Snapshot, isMadeOfIt(name))
		return c.drop(t)
	}
	var err error
	if t.Rules, err = template.Parse([]byte(r.Rules)); err != nil {
		return err
	}
	t.claim = c.opt.Store.Expect(t.Snapshot, isMadeOfIt(name))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.templates[name] = t
	return nil
}

// fullDisk tells whether there was no room to write.
func fullDisk(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
