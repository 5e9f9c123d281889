// Package app is what snapctl knows of an app: its record on the disk, the statuses that
// it can have, the steps from one to the next, and whose turn it is to take them.
package app

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/wake"
)

// Record is what is kept of an app on the disk: one JSON object with the fields of all
// its parts.
type Record struct {
	Version int `json:"version"`
	Identity
	Spec *specs.Spec `json:"spec"` // the program, its root and its limits, as the OCI has it
	Address
	Policy
	Origin
	Files
	State
}

// Identity is by what names an app is known.
type Identity struct {
	Name string `json:"name"`
	// ID names the app's directories and cgroup, if that is not its name: it was made
	// before it got a name, to stand ready.
	ID        string    `json:"id,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// Address is where the app is in its network.
type Address struct {
	Network string     `json:"network"`
	Addr4   netip.Addr `json:"addr4"`
	Addr6   netip.Addr `json:"addr6"`
	// Inside4 and Inside6 are the addresses by which the app knows itself, if it was
	// made from a snapshot.
	Inside4 netip.Addr    `json:"inside4,omitzero"`
	Inside6 netip.Addr    `json:"inside6,omitzero"`
	Publish []Publication `json:"publish,omitempty"`
}

// Policy is when the app sleeps and wakes, and how.
type Policy struct {
	Wake wake.Policy `json:"wake"`
	// WakeElsewhere is the host that the app is woken on by traffic, or [AnyHost]; "": the one where it sleeps.
	WakeElsewhere  string        `json:"wake_elsewhere,omitempty"`
	HibernateAfter time.Duration `json:"hibernate_after_ns"` // idle; 0: never by itself
	// RestoreMemory is how the processes get their memory back.
	RestoreMemory restore.Pages `json:"restore_memory,omitzero"`
	// AcceptLost are the protections that its processes may lose.
	AcceptLost []preflight.Protection `json:"accept_lost,omitempty"`
	// AcceptChanged has files of binds made that are gone, see restore.Options.
	AcceptChanged bool `json:"accept_changed_files,omitempty"`
}

// AnyHost is the host that has most memory available.
const AnyHost = "any"

// Origin is what the app was made of, unless its program was started by `run`.
type Origin struct {
	RestoredFrom string `json:"restored_from,omitempty"`
	// Template and Number are those of a clone.
	Template string `json:"template,omitempty"`
	Number   int    `json:"number,omitempty"`
	Pool     string `json:"pool,omitempty"` // of the template that it stands ready for
	// Batch names the request that made it together with others.
	Batch string `json:"batch,omitempty"`
	// Generation is new whenever the app is made of a snapshot, see package template.
	Generation string `json:"generation,omitempty"`
}

// Files are files and memory that the app shares with others.
type Files struct {
	// Layers are the files that the app began with.
	Layers []layer.Ref `json:"layers,omitempty"`
	// Restacking is the layer that the app's own files are about to become.
	Restacking *layer.Ref `json:"restacking,omitempty"`
	// Relinking is set while hard links are copied up again. The app's files have become
	// a layer, and an overlay copies each name of a file on its own.
	Relinking bool `json:"relinking,omitempty"`
	// Memory are the memory files that the processes map.
	Memory []memory.File `json:"memory,omitempty"`
	// HostFiles are the kept files of the host that the processes may map or have open.
	HostFiles []hostfile.File `json:"host_files,omitempty"`
}

// State is what the app is doing, and what it has to tell.
type State struct {
	Status Status `json:"status"` // one that lasts, or none, see [Record.Now]
	// Operation is the one that is open.
	Operation journal.Entry    `json:"operation,omitzero"`
	StatusAt  time.Time        `json:"status_at"`
	Process   process.Identity `json:"process"`        // the root process
	Boot      string           `json:"boot,omitempty"` // of the host, in which it became held
	Exit      string           `json:"exit,omitempty"`
	// LastError is the last error that nobody waited for.
	LastError string `json:"last_error,omitempty"`
	// Alarm is the first timer of a held app to expire.
	Alarm *alarm.Alarm `json:"alarm,omitempty"`
	// WokenBy is what woke it last.
	WokenBy WokenBy `json:"woken_by,omitempty"`
	// Resume has a held app woken as soon as it can be: it ran before it was to move.
	Resume bool `json:"resume,omitempty"`
	// Volatile tells that what is saved of a held app is not brought to the disk: it ran before it was to move, and is
	// lost if the host fails, as any app that runs.
	Volatile bool `json:"volatile,omitempty"`
	// KeepsAddress has other hosts know whose the endpoint of a stopped app is: it is about to move, or has moved.
	KeepsAddress bool `json:"keeps_address,omitempty"`
	// CalledOff is how many of its hibernations were called off by traffic, of all since it was made.
	CalledOff int `json:"called_off,omitempty"`
	// Notes are of when it was last hibernated, woken, restored or cloned.
	Notes []Note `json:"notes,omitempty"`
}

// WokenBy is what woke an app: one of these, or the kind of traffic, see [wake.Reason].
type WokenBy string

// What wakes an app besides traffic.
const (
	ByCommand WokenBy = "command"
	ByTimer   WokenBy = "timer" // its own
	ByMove    WokenBy = "move"  // to another host
)

// Note is something that an app has otherwise than before, or will have when it comes
// back. It is no error: the command lists it, and `snapctl show` does until the app is
// hibernated, woken or restored the next time.
type Note struct {
	Text   string `json:"text"`             // what, of which process, descriptor or path
	Remedy string `json:"remedy,omitempty"` // what can be done about it
}

// DirName is the name of the app's directories and cgroup.
func (r *Record) DirName() string { return cmp.Or(r.ID, r.Name) }

// Inside are the addresses by which the app knows itself.
func (r *Record) Inside() (four, six netip.Addr) {
	four, six = r.Inside4, r.Inside6
	if !four.IsValid() {
		four = r.Addr4
	}
	if !six.IsValid() {
		six = r.Addr6
	}
	return four, six
}

// Own are the addresses by which the app reaches itself.
func (r *Record) Own() []netip.Addr {
	four, six := r.Inside()
	return []netip.Addr{four, six}
}

// Publication is a port of the host that leads to a port of the app.
type Publication struct {
	Proto    string     `json:"proto"` // tcp or udp
	HostAddr netip.Addr `json:"host_addr"`
	HostPort uint16     `json:"host_port"`
	Port     uint16     `json:"port"`
}

const recordVersion = 1

// Write replaces the record in an app's directory. A daemon that is killed at any moment
// finds the old record or the new one. If the disk is full, the room is used that a record
// which lasts has set aside.
func (r *Record) Write(dir string, keep journal.Keep) error {
	r.Version = recordVersion
	err := journal.Write(filepath.Join(dir, RecordFile), r, keep)
	if errors.Is(err, unix.ENOSPC) && os.Remove(filepath.Join(dir, spareFile)) == nil {
		return journal.Write(filepath.Join(dir, RecordFile), r, keep)
	}
	if err == nil && keep == journal.Forever {
		KeepSpare(dir)
	}
	return err
}

// KeepSpare makes the spare file of an app that lasts, if it has none.
func KeepSpare(dir string) {
	spare := filepath.Join(dir, spareFile)
	if _, err := os.Lstat(spare); err != nil {
		_ = os.WriteFile(spare, make([]byte, spareBytes), 0o600) // better luck next time
	}
}

// RecordFile is the name of the record in an app's directory.
const RecordFile = "app.json"

const (
	// spareFile is room that an app has when the disk is full: a held one
	// must be able to wake then, and waking is recorded.
	spareFile  = "spare"
	spareBytes = 64 << 10
)

// Read reads the record in an app's directory and checks it.
func Read(dir string) (*Record, error) {
	var r Record
	if err := journal.Read(filepath.Join(dir, RecordFile), &r); errors.Is(err, fs.ErrNotExist) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	r.upgrade()
	switch {
	case r.Version != recordVersion:
		return nil, fmt.Errorf("read record: version %d, this snapctld reads %d", r.Version, recordVersion)
	case r.DirName() != filepath.Base(dir), snapshot.ValidateName(r.Name) != nil && r.Name != r.ID:
		return nil, fmt.Errorf("read record: name %q in directory %s", r.Name, dir)
	case r.Spec == nil || r.Spec.Process == nil || r.Spec.Root == nil:
		return nil, errors.New("read record: no program in it")
	case !r.Status.lasting(), r.Status == "" && !r.Operation.Open(), !r.Now().Known() && r.Operation.Doing != "":
		return nil, fmt.Errorf("read record: status %q", r.Now())
	}
	return &r, nil
}

// RemoveDir removes an app's state directory, its record last, so that what a
// crash leaves is still known to be half removed.
func RemoveDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("remove app: %w", err)
	}
	for _, e := range entries {
		if e.Name() == RecordFile {
			continue
		}
		if err := os.RemoveAll(dir + "/" + e.Name()); err != nil {
			return fmt.Errorf("remove app: %w", err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove app: %w", err)
	}
	return nil
}
