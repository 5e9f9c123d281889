package output

import (
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// App is one app.
type App struct {
	Name         string    `json:"name"`
	Status       string    `json:"status"`
	StatusAt     time.Time `json:"status_at,omitzero"` // since when
	CreatedAt    time.Time `json:"created_at,omitzero"`
	Operation    string    `json:"operation,omitempty"`     // what is being done to it
	Exit         string    `json:"exit,omitempty"`          // how it ended
	RestoredFrom string    `json:"restored_from,omitempty"` // snapshot

	Remarks
	Identity
	Place
	Program
	Usage
	Policy
}

// Remarks are what there is to know about an app.
type Remarks struct {
	Error string `json:"error,omitempty"` // of what the daemon last did by itself
	Hint  string `json:"hint,omitempty"`
	Notes []Note `json:"notes,omitempty"` // of when it was last hibernated, woken, restored or cloned

	WouldNotStart []Obstacle `json:"would_not_start,omitempty"` // while it is held
}

// Identity tells an app from its copies.
type Identity struct {
	Template       string `json:"template,omitempty"`        // that it is a clone of
	Number         int32  `json:"number,omitempty"`          // among the clones
	InsideEndpoint string `json:"inside_endpoint,omitempty"` // by which it knows itself, if that is another
	Generation     string `json:"generation,omitempty"`      // new with every restore and clone
}

// Place is where an app is on the network.
type Place struct {
	Network   string        `json:"network"`
	Endpoint  string        `json:"endpoint"`
	Endpoint6 string        `json:"endpoint6,omitempty"`
	Publish   []Publication `json:"publish"`
}

// Publication is a port of an app that is reachable at the host's addresses.
type Publication struct {
	Protocol    string `json:"protocol"`
	HostAddress string `json:"host_address,omitempty"` // every address if there is none
	HostPort    uint32 `json:"host_port"`
	Port        uint32 `json:"port"`
}

// Program is what an app runs.
type Program struct {
	Args     []string `json:"args"`
	Rootfs   string   `json:"rootfs"`
	Binds    []Bind   `json:"binds"`
	Hostname string   `json:"hostname"`
	User     string   `json:"user"`
	Workdir  string   `json:"workdir"`
}

// Bind is a file or directory of the host that an app sees.
type Bind struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	ReadOnly    bool   `json:"read_only"`
}

// Usage is what an app has of the host.
type Usage struct {
	PID         int32 `json:"pid,omitempty"` // of the root process, on the host
	Processes   int32 `json:"processes"`
	MemoryBytes int64 `json:"memory_bytes"`
	HeldSockets int32 `json:"held_sockets"`
}

// Policy is what an app was given to live by.
type Policy struct {
	Wake             Wake     `json:"wake"`
	HibernateAfterUS int64    `json:"hibernate_after_us,omitempty"` // of no traffic
	Awake            string   `json:"awake,omitempty"`              // while it runs: why it has not been hibernated
	Alarm            *Alarm   `json:"alarm,omitempty"`              // while it is hibernated
	CalledOff        int      `json:"called_off,omitempty"`         // hibernations that traffic called off
	WokenBy          string   `json:"woken_by,omitempty"`           // while it runs: what woke it last
	RestoreMemory    string   `json:"restore_memory,omitempty"`     // "copied", or mapped
	AcceptLost       []string `json:"accept_lost,omitempty"`        // protections that it may lose when it is saved
	// AcceptChangedFiles has it come back without files below binds that it had.
	AcceptChangedFiles bool `json:"accept_changed_files,omitempty"`

	Limits Limits `json:"limits"`
}

// Wake says which traffic wakes an app.
type Wake struct {
	Mode     string `json:"mode"`
	MinBytes int32  `json:"min_bytes,omitempty"`
	// SilentAfterUS is how long a new connection has to stay open and silent to wake
	// the app; 0: it never does. Without it: 1.5 s.
	SilentAfterUS *int64   `json:"silent_after_us,omitempty"`
	Timers        bool     `json:"timers,omitempty"` // the app's own timers wake it, too
	Ignore        []string `json:"ignore"`
	Elsewhere     string   `json:"elsewhere,omitempty"` // the host that traffic wakes it on, or any
}

// Alarm is the first timer of a hibernated app to expire.
type Alarm struct {
	At    time.Time `json:"at"`
	Timer string    `json:"timer"`
}

// Limits are those of an app's cgroup; one that is left out is none.
type Limits struct {
	MemoryBytes int64   `json:"memory_bytes,omitempty"`
	CPUs        float64 `json:"cpus,omitempty"`
	PIDs        int64   `json:"pids,omitempty"`
}

// NewApp reads the API's message.
func NewApp(a *api.App) App {
	return App{
		Name: a.GetName(), Status: Status(a.GetStatus()), StatusAt: utc(a.GetStatusAt()), CreatedAt: utc(a.GetCreatedAt()),
		Operation: a.GetOperation(), Exit: a.GetExit(), RestoredFrom: a.GetRestoredFrom(),
		Remarks:  Remarks{Error: a.GetError(), Hint: a.GetHint(), Notes: appNotes(a.GetNotes()), WouldNotStart: obstacles(a.GetWouldNotStart())},
		Identity: Identity{Template: a.GetTemplate(), Number: a.GetNumber(), InsideEndpoint: a.GetInsideEndpoint(), Generation: a.GetGeneration()},
		Place: Place{
			Network: a.GetNetwork(), Endpoint: a.GetEndpoint(), Endpoint6: a.GetEndpoint6(),
			Publish: convert(a.GetPublish(), func(p *api.Publication) Publication {
				return Publication{Protocol: p.GetProtocol(), HostAddress: p.GetHostAddress(), HostPort: p.GetHostPort(), Port: p.GetPort()}
			}),
		},
		Program: Program{
			Args: list(a.GetArgs()), Rootfs: a.GetRootfs(), Hostname: a.GetHostname(), User: a.GetUser(), Workdir: a.GetWorkdir(),
			Binds: convert(a.GetBinds(), func(b *api.Bind) Bind {
				return Bind{Source: b.GetSource(), Destination: b.GetDestination(), ReadOnly: b.GetReadOnly()}
			}),
		},
		Usage: Usage{PID: a.GetPid(), Processes: a.GetProcesses(), MemoryBytes: a.GetMemoryBytes(), HeldSockets: a.GetHeldSockets()},
		Policy: Policy{
			Wake:             newWake(a.GetWake()),
			HibernateAfterUS: microseconds(a.GetHibernateAfter()),
			Awake:            a.GetAwake(),
			Alarm:            newAlarm(a.GetAlarm()),
			WokenBy:          a.GetWokenBy(),
			CalledOff:        int(a.GetCalledOff()),
			RestoreMemory:    restoreMemory(a.GetRestoreMemory()),
			AcceptLost:       a.GetAcceptLost(),

			AcceptChangedFiles: a.GetAcceptChangedFiles(),

			Limits: Limits{MemoryBytes: a.GetLimits().GetMemoryBytes(), CPUs: a.GetLimits().GetCpus(), PIDs: a.GetLimits().GetPids()},
		},
	}
}

func newWake(p *api.WakePolicy) Wake {
	w := Wake{Mode: wakeMode(p.GetMode()), MinBytes: p.GetMinBytes(), Timers: p.GetTimers(), Ignore: list(p.GetIgnore()), Elsewhere: p.GetElsewhere()}
	if p.GetSilentAfter() != nil {
		us := microseconds(p.GetSilentAfter())
		w.SilentAfterUS = &us
	}
	return w
}

func newAlarm(a *api.Alarm) *Alarm {
	if a == nil {
		return nil
	}
	return &Alarm{At: utc(a.GetAt()), Timer: a.GetTimer()}
}

// restoreMemory is how memory comes back; mapped, which is the rule, is left out.
func restoreMemory(m api.RestoreMemory) string {
	if m == api.RestoreMemory_RESTORE_MEMORY_COPIED {
		return "copied"
	}
	return ""
}

// Status is an app's status in one word.
func Status(s api.Status) string { return word(s, api.Status_name, "STATUS_") }

// word is a value of an enumeration of the API, of which names has all.
func word[E interface {
	~int32
	String() string
}](e E, names map[int32]string, prefix string) string {
	if e == 0 || names[int32(e)] == "" {
		return "unknown"
	}
	return strings.ToLower(strings.TrimPrefix(e.String(), prefix))
}

func wakeMode(m api.WakeMode) string {
	switch m {
	case api.WakeMode_WAKE_MODE_ON_CONNECT:
		return "on-connect"
	case api.WakeMode_WAKE_MODE_NEVER:
		return "never"
	case api.WakeMode_WAKE_MODE_ON_DATA, api.WakeMode_WAKE_MODE_UNSPECIFIED:
		return "on-data"
	default:
		return "unknown"
	}
}
