package hosts

import (
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// Conflicts is what host join prints of a host that can't join as it is.
type Conflicts struct {
	output.Schema
	Conflicts []Conflict `json:"conflicts"`
}

// Conflict is one thing that a host has made alone, and that can't be so in an installation.
type Conflict struct {
	Kind    string `json:"kind"`              // host-name, prefixes, overlap, underlay, address, block or app-name
	Here    string `json:"here"`              // what it is about: a host, network, app or address
	There   string `json:"there"`             // what it meets
	Network string `json:"network,omitempty"` // of this host, that it is in
	Text    string `json:"text"`
	Remedy  string `json:"remedy"`
}

// NewConflicts reads the API's messages.
func NewConflicts(all []*api.HostConflict) *Conflicts {
	d := &Conflicts{Schema: output.Schema{Version: output.SchemaVersion}, Conflicts: []Conflict{}}
	for _, c := range all {
		d.Conflicts = append(d.Conflicts, Conflict{Kind: c.GetKind(), Here: c.GetMine(), There: c.GetThere(), Network: c.GetNetwork(), Text: c.GetText(), Remedy: c.GetRemedy()})
	}
	return d
}

// Table implements [output.Document].
func (d *Conflicts) Table(t *output.Table) {
	var rows [][]string
	for _, c := range d.Conflicts {
		rows = append(rows, []string{c.Kind, c.Here, c.There, c.Network, c.Text})
	}
	t.Rows([]string{"CONFLICT", "HERE", "THERE", "NETWORK", "WHAT"}, rows)
	t.Line("")
	for _, c := range d.Conflicts {
		t.Line(c.Kind + " " + c.Here + ": " + c.Remedy)
	}
}
