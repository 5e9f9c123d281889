package output

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/snapctl/snapctl/runtime/api"
)

// Inspection is what inspect prints.
type Inspection struct {
	Schema
	Snapshot Snapshot `json:"snapshot"`

	// Image is the daemon's description, passed on as it is.
	Image json.RawMessage `json:"image"`

	shown description
}

// description is the part of the description that the table shows.
type description struct {
	Processes []struct {
		PID     int    `json:"pid"`
		PPID    int    `json:"ppid"`
		Comm    string `json:"comm"`
		State   string `json:"state"`
		Threads []any  `json:"threads"`
		Memory  struct {
			MappedBytes   int64 `json:"mapped_bytes"`
			StoredBytes   int64 `json:"stored_bytes"`
			RemappedBytes int64 `json:"remapped_bytes"`
			Mappings      []struct {
				StoredBytes   int64  `json:"stored_bytes"`
				RemappedBytes int64  `json:"remapped_bytes"`
				CopiedBecause string `json:"copied_because"`
			} `json:"mappings"`
		} `json:"memory"`
		Descriptors []any `json:"descriptors"`
	} `json:"processes"`
	Sockets []struct {
		Protocol string `json:"protocol"`
		State    string `json:"state"`
		Local    string `json:"local"`
		Remote   string `json:"remote"`
		Path     string `json:"path"`
	} `json:"sockets"`
}

// NewInspection reads the API's message. Returns an error if the daemon's
// description is not what this program knows.
func NewInspection(r *api.InspectResponse) (*Inspection, error) {
	d := &Inspection{Schema: schema(), Snapshot: NewSnapshot(r.GetSnapshot()), Image: r.GetInfoJson()}
	if len(d.Image) == 0 {
		d.Image = json.RawMessage("{}")
	}
	if err := json.Unmarshal(d.Image, &d.shown); err != nil {
		return nil, fmt.Errorf("read description of snapshot %s: %w", d.Snapshot.Name, err)
	}
	return d, nil
}

// Table implements [Document].
func (d *Inspection) Table(t *Table) {
	s := d.Snapshot
	kept := ""
	if s.Connections > 0 {
		kept = plural(int(s.Connections), "TCP connection")
	}
	t.Fields([]Field{
		{"name", s.Name},
		{"app", s.App},
		{"would not start", obstacleText(s.WouldNotStart)},
		{"command", Command(s.Args)},
		{"endpoint", s.Endpoint},
		{"network", s.Network},
		{"created", stamp(s.CreatedAt)},
		{"size", s.Sizes.text()},
		{"shared", s.detail()},
		{"kept inside", kept},
		{"restores memory", s.RestoreMemory},
		{"criu", s.CRIUVersion},
		{"kernel", s.Kernel},
	})
	if len(d.shown.Processes) > 0 {
		t.Line("")
		var rows [][]string
		for _, p := range d.shown.Processes {
			rows = append(rows, []string{
				strconv.Itoa(p.PID), strconv.Itoa(p.PPID), p.State, strconv.Itoa(len(p.Threads)), strconv.Itoa(len(p.Descriptors)),
				Size(p.Memory.StoredBytes), Size(p.Memory.RemappedBytes), Size(p.Memory.MappedBytes), p.Comm,
			})
		}
		t.Rows([]string{"PID", "PARENT", "STATE", "THREADS", "FILES", "STORED", "SHARED", "MAPPED", "PROCESS"}, rows)
		d.copied(t)
	}
	if len(d.shown.Sockets) > 0 {
		t.Line("")
		var rows [][]string
		for _, s := range d.shown.Sockets {
			rows = append(rows, []string{s.Protocol, s.State, s.Local + s.Path, s.Remote})
		}
		t.Rows([]string{"SOCKET", "STATE", "LOCAL", "REMOTE"}, rows)
	}
}

// copied tells what a restore copies and does not map, and why.
func (d *Inspection) copied(t *Table) {
	because := make(map[string]int64)
	for _, p := range d.shown.Processes {
		for _, m := range p.Memory.Mappings {
			if m.CopiedBecause != "" {
				because[m.CopiedBecause] += m.StoredBytes - min(m.StoredBytes, m.RemappedBytes)
			}
		}
	}
	if len(because) == 0 {
		return
	}
	t.Line("")
	var rows [][]string
	for _, why := range slices.Sorted(maps.Keys(because)) {
		rows = append(rows, []string{Size(because[why]), why})
	}
	t.Rows([]string{"COPIED", "BECAUSE"}, rows)
}
