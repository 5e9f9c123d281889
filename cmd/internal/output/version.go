package output

import (
	"fmt"

	"github.com/snapctl/snapctl/runtime/api"
)

// Version is what version prints.
type Version struct {
	Schema
	Client Build   `json:"client"`
	Daemon *Daemon `json:"daemon,omitempty"` // none if it can't be asked
}

// Build is which program this is.
type Build struct {
	Version   string `json:"version"`
	GoVersion string `json:"go_version"`
}

// Daemon is which daemon answers, and what it works with.
type Daemon struct {
	Build
	PID         int32  `json:"pid"`
	HolderPID   int32  `json:"holder_pid,omitempty"`
	CRIUVersion string `json:"criu_version"`
	CRIUPath    string `json:"criu_path"`
	Kernel      string `json:"kernel"`
	StateDir    string `json:"state_dir"`
	RunDir      string `json:"run_dir"`
	Cgroup      string `json:"cgroup"`
}

// NewVersion reads the API's message; nil if there is no daemon.
func NewVersion(client Build, r *api.VersionResponse) *Version {
	v := &Version{Schema: schema(), Client: client}
	if r != nil {
		v.Daemon = &Daemon{
			Build: Build{Version: r.GetVersion(), GoVersion: r.GetGoVersion()},
			PID:   r.GetPid(), HolderPID: r.GetHolderPid(), CRIUVersion: r.GetCriuVersion(), CRIUPath: r.GetCriuPath(), Kernel: r.GetKernel(),
			StateDir: r.GetStateDir(), RunDir: r.GetRunDir(), Cgroup: r.GetCgroup(),
		}
	}
	return v
}

// Table implements [Document].
func (v *Version) Table(t *Table) {
	fields := []Field{{"snapctl", v.Client.text()}}
	if d := v.Daemon; d != nil {
		criu := d.CRIUVersion
		if d.CRIUPath != "" {
			criu += " (" + d.CRIUPath + ")"
		}
		fields = append(fields, []Field{
			{"snapctld", d.text()},
			{"pid", number(d.PID)},
			{"holder pid", number(d.HolderPID)},
			{"criu", criu},
			{"kernel", d.Kernel},
			{"state", d.StateDir},
			{"run", d.RunDir},
			{"cgroup", d.Cgroup},
		}...)
	}
	t.Fields(fields)
}

func (b Build) text() string { return fmt.Sprintf("%s (%s)", b.Version, b.GoVersion) }
