package hosts

import (
	"fmt"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// Takeover is what host takeover prints.
type Takeover struct {
	output.Schema
	App       string   `json:"app"`
	Network   string   `json:"network"`
	Endpoint  string   `json:"endpoint"`
	Epoch     uint64   `json:"epoch"`     // how often the endpoint had an owner
	From      string   `json:"from"`      // the host that had it
	Host      string   `json:"host"`      // that has it now: the one that was asked
	Snapshots []string `json:"snapshots"` // of the app that are on this host, the newest first
}

// NewTakeover reads the API's message.
func NewTakeover(t *api.TakeoverResponse) *Takeover {
	return &Takeover{
		Schema: output.Schema{Version: output.SchemaVersion}, App: t.GetApp(), Network: t.GetNetwork(), Endpoint: t.GetEndpoint(), Epoch: t.GetEpoch(),
		From: t.GetFrom(), Host: t.GetBy(), Snapshots: append([]string{}, t.GetSnapshots()...),
	}
}

// Table implements [output.Document].
func (d *Takeover) Table(t *output.Table) {
	t.Line(fmt.Sprintf("%s at %s of network %s is on host %s now, and not on host %s any more", d.App, d.Endpoint, d.Network, d.Host, d.From))
	t.Line("")
	run := fmt.Sprintf("  snapctl run --name %s --network %s PROGRAM...", d.App, d.Network)
	if len(d.Snapshots) == 0 {
		t.Line("This host has no snapshot of it. Run it anew, and it has that address:")
		t.Line("")
		t.Line(run)
		return
	}
	t.Line("Restore it from its newest snapshot here, or run it anew, and it has that address:")
	t.Line("")
	t.Line("  snapctl restore " + d.Snapshots[0])
	t.Line(run)
}
