package daemon

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/hold"
)

// Status is what an app is doing. Only Running, Held and Stopped last; the
// others are steps of an operation, and what a restarted daemon finds in one of
// them it finishes or undoes, see recover.go.
type Status string

// The statuses of an app.
const (
	Creating     Status = "creating"
	Running      Status = "running"
	Snapshotting Status = "snapshotting"
	Hibernating  Status = "hibernating"
	Held         Status = "held"     // hibernated: no process, its sockets held
	Waking       Status = "waking"   // its processes are being made, none runs
	Resuming     Status = "resuming" // its processes may run: there is no way back
	Restoring    Status = "restoring"
	Pooled       Status = "pooled" // made, frozen before it ever ran, without a name
	Stopped      Status = "stopped"
	Removing     Status = "removing"
)

// legal are the steps that an app may take. What a daemon left in the middle of a
// step can be removed: a clone of a request that was never over is, see batch.go.
var legal = map[Status][]Status{
	"":           {Creating, Restoring},
	Creating:     {Running, Removing},
	Restoring:    {Running, Removing, Pooled},
	Pooled:       {Restoring, Stopped, Removing},
	Running:      {Snapshotting, Hibernating, Stopped, Removing},
	Snapshotting: {Running, Stopped, Removing},
	Hibernating:  {Running, Held, Stopped, Removing},
	Held:         {Waking, Stopped, Removing},
	Waking:       {Resuming, Held, Removing},
	Resuming:     {Running, Held, Stopped, Removing},
	Stopped:      {Removing},
	Removing:     {},
}

// StepError is a step that an app's status does not allow.
type StepError struct {
	App      string
	From, To Status
}

func (e *StepError) Error() string {
	if done, ok := beingDone[e.To]; ok {
		return fmt.Sprintf("app %s is %s: it can't be %s", e.App, e.From, done)
	}
	return fmt.Sprintf("app %s is %s: it can't become %s", e.App, e.From, e.To)
}

// beingDone says in users' words what a step does to an app.
var beingDone = map[Status]string{
	Hibernating: "hibernated", Snapshotting: "saved", Waking: "woken", Resuming: "woken", Stopped: "stopped", Removing: "removed",
}

// record is what is kept of an app on the disk.
type record struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	// ID names the app's directories and cgroup, if that is not its name: it was
	// made before it got one, see pool.go.
	ID             string          `json:"id,omitempty"`
	Pool           string          `json:"pool,omitempty"` // of the template that it stands ready for
	Status         Status          `json:"status"`
	StatusAt       time.Time       `json:"status_at"`
	CreatedAt      time.Time       `json:"created_at"`
	Spec           *specs.Spec     `json:"spec"`
	Network        string          `json:"network"`
	Addr4          netip.Addr      `json:"addr4"`
	Addr6          netip.Addr      `json:"addr6"`
	Wake           hold.WakePolicy `json:"wake"`
	HibernateAfter time.Duration   `json:"hibernate_after_ns"`
	// RestoreMemory is how the processes get their memory back.
	RestoreMemory restore.Pages `json:"restore_memory,omitzero"`
	Publish       []publication `json:"publish,omitempty"`
	RestoredFrom  string        `json:"restored_from,omitempty"`
	// Template and Number are those of a clone.
	Template string `json:"template,omitempty"`
	Number   int    `json:"number,omitempty"`
	// Batch names the request that made it together with others, see batch.go.
	Batch string `json:"batch,omitempty"`
	// Generation is new whenever the app is made of a snapshot, see package
	// template.
	Generation string        `json:"generation,omitempty"`
	Process    processRecord `json:"process"`
	Boot       string        `json:"boot,omitempty"` // of the host, in which it became held
	// Inside4 and Inside6 are the addresses by which the app knows itself, if it
	// was made from a snapshot.
	Inside4 netip.Addr `json:"inside4,omitzero"`
	Inside6 netip.Addr `json:"inside6,omitzero"`
	// Layers are the files that the app began with.
	Layers []snapshot.Layer `json:"layers,omitempty"`
	// Restacking is the layer that the app's own files are about to become, see
	// restack.go.
	Restacking *snapshot.Layer `json:"restacking,omitempty"`
	// Relinking is a held app whose files are a layer now, and of which those with
	// several names are to be its own again.
	Relinking bool `json:"relinking,omitempty"`
	// Memory are the memory files that the processes map.
	Memory []memory.File `json:"memory,omitempty"`
	// HostFiles are the kept files of the host that the processes may map or have open.
	HostFiles []hostfile.File `json:"host_files,omitempty"`
	Exit      string          `json:"exit,omitempty"`
	LastError string          `json:"last_error,omitempty"`
	// AcceptLost are the protections that its processes may lose.
	AcceptLost []preflight.Protection `json:"accept_lost,omitempty"`
	// AcceptChanged has files of binds made that are gone, see restore.Options.
	AcceptChanged bool `json:"accept_changed_files,omitempty"`
	// Alarm is the first timer of a held app to expire.
	Alarm *alarm.Alarm `json:"alarm,omitempty"`
	// WokenBy is what woke it last.
	WokenBy wokenBy `json:"woken_by,omitempty"`
	// Notes are of when it was last hibernated, woken, restored or cloned.
	Notes []note `json:"notes,omitempty"`
}

// processRecord names the root process so that it is never taken for another
// one that got its number.
type processRecord struct {
	PID       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"` // /proc/PID/stat, field 22
}

// endpoint is the app's place in its network.
func (r *record) endpoint() fabric.Endpoint {
	ep := fabric.Endpoint{App: r.Name, Addr4: r.Addr4, Addr6: r.Addr6}
	if r.Inside4 != r.Addr4 {
		ep.Inside4 = r.Inside4
	}
	if r.Inside6 != r.Addr6 {
		ep.Inside6 = r.Inside6
	}
	return ep
}

// place names the app's directories and cgroup.
func (r *record) place() string { return cmp.Or(r.ID, r.Name) }

// inside are the addresses by which the app knows itself.
func (r *record) inside() (four, six netip.Addr) {
	four, six = r.Inside4, r.Inside6
	if !four.IsValid() {
		four = r.Addr4
	}
	if !six.IsValid() {
		six = r.Addr6
	}
	return four, six
}

// own are the addresses by which the app reaches itself.
func (r *record) own() []netip.Addr {
	four, six := r.inside()
	return []netip.Addr{four, six}
}

type publication struct {
	Proto    string     `json:"proto"`
	HostAddr netip.Addr `json:"host_addr"`
	HostPort uint16     `json:"host_port"`
	Port     uint16     `json:"port"`
}

const recordVersion = 1

// write replaces the record's file. A daemon that is killed at any moment finds
// the old or the new one; surviving a power cut is only asked for where what
// the record says does too, see sync.
func (r *record) write(dir string, durable durability) error {
	r.Version = recordVersion
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", r.Name, err)
	}
	b = seal(b)
	err = replaceFile(filepath.Join(dir, recordFile), b, durable)
	if errors.Is(err, unix.ENOSPC) && os.Remove(filepath.Join(dir, spareFile)) == nil {
		return replaceFile(filepath.Join(dir, recordFile), b, durable)
	}
	if err == nil && durable == forever {
		keepSpare(dir)
	}
	return err
}

// keepSpare makes the spare file of an app that lasts, if it has none.
func keepSpare(dir string) {
	spare := filepath.Join(dir, spareFile)
	if _, err := os.Lstat(spare); err != nil {
		_ = os.WriteFile(spare, make([]byte, spareBytes), 0o600) // better luck next time
	}
}

const (
	recordFile = "app.json"
	// spareFile is room that an app has when the disk is full: a held one
	// must be able to wake then, and waking is recorded.
	spareFile  = "spare"
	spareBytes = 64 << 10
)

type durability int

const (
	untilReboot durability = iota // what it says does not survive a reboot either
	forever
)

// replaceFile writes a file aside and renames it into place.
func replaceFile(path string, b []byte, durable durability) (err error) {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(b)
	if durable == forever {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(tmp))
	}
	return nil
}

// readRecord reads the record of an app and checks it.
func readRecord(dir string) (*record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return nil, err
	}
	var r record
	if b, err = unseal(b); err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	switch {
	case r.Version != recordVersion:
		return nil, fmt.Errorf("read record: version %d, this snapctld reads %d", r.Version, recordVersion)
	case r.place() != filepath.Base(dir), snapshot.ValidateName(r.Name) != nil && r.Name != r.ID:
		return nil, fmt.Errorf("read record: name %q in directory %s", r.Name, dir)
	case r.Spec == nil || r.Spec.Process == nil || r.Spec.Root == nil:
		return nil, errors.New("read record: no program in it")
	}
	if _, ok := legal[r.Status]; !ok || r.Status == "" {
		return nil, fmt.Errorf("read record: status %q", r.Status)
	}
	return &r, nil
}
