package output

import (
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// Resolution is who has an endpoint.
type Resolution struct {
	Network   string    `json:"network"`
	App       string    `json:"app"`
	Endpoint  string    `json:"endpoint"` // IPv4
	Endpoint6 string    `json:"endpoint6,omitempty"`
	Host      string    `json:"host,omitempty"`   // its owner; none: this host, which is in no installation
	Self      bool      `json:"self"`             // the owner is the host that was asked
	Epoch     uint64    `json:"epoch"`            // 0: in no installation
	State     string    `json:"state"`            // running, held, moving
	Target    string    `json:"target,omitempty"` // host, of one that is moving
	Alive     bool      `json:"alive"`            // the owner was seen a moment ago
	Source    string    `json:"source"`           // here, cache, directory
	AsOf      time.Time `json:"as_of,omitzero"`   // when it was so
}

// Resolved is what vem resolve prints.
type Resolved struct {
	Schema
	Endpoints []Resolution `json:"endpoints"`
	Trouble   string       `json:"trouble,omitempty"` // why the directory can't be asked
}

// NewResolved reads the API's message.
func NewResolved(r *api.ResolveResponse) *Resolved {
	return &Resolved{Schema: schema(), Trouble: r.GetTrouble(), Endpoints: convert(r.GetFound(), func(e *api.Resolution) Resolution {
		return Resolution{
			Network: e.GetNetwork(), App: e.GetApp(), Endpoint: e.GetEndpoint(), Endpoint6: e.GetEndpoint6(), Host: e.GetHost(), Self: e.GetSelf(),
			Epoch: e.GetEpoch(), State: e.GetState(), Target: e.GetTarget(), Alive: e.GetAlive(), Source: e.GetSource(), AsOf: utc(e.GetAsOf()),
		}
	})}
}

// Table implements [Document].
func (d *Resolved) Table(t *Table) {
	t.Rows([]string{"NETWORK", "ENDPOINT", "ENDPOINT6", "APP", "HOST", "STATE", "EPOCH", "KNOWN FROM", "AS OF"}, convert(d.Endpoints, func(e Resolution) []string {
		host, state := e.Host, e.State
		switch {
		case e.Self && host == "":
			host = "this host"
		case e.Self:
			host += " (this host)"
		case !e.Alive:
			host += " (silent)"
		}
		if e.Target != "" {
			state += " to " + e.Target
		}
		return []string{e.Network, e.Endpoint, e.Endpoint6, e.App, host, state, number(int64(e.Epoch)), e.Source, t.age(e.AsOf)}
	}))
	if d.Trouble != "" {
		t.Line("")
		t.Line("The directory can't be asked now, and this may be outdated: " + d.Trouble)
	}
}
