package output

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// Operation names what was done.
type Operation string

// The operations.
const (
	Hibernate      Operation = "hibernate"
	WakeUp         Operation = "wake"
	TakeSnapshot   Operation = "snapshot"
	Restore        Operation = "restore"
	Stop           Operation = "stop"
	Remove         Operation = "remove"
	RemoveSnapshot Operation = "remove-snapshot"
	CreateTemplate Operation = "create-template"
	RemoveTemplate Operation = "remove-template"
	Clone          Operation = "clone"
	RemoveHost     Operation = "remove-host"
)

// Result is what an operation did to one app, snapshot or template.
type Result struct {
	Operation Operation `json:"operation"`
	Name      string    `json:"name"`     // as it was asked for
	Complete  bool      `json:"complete"` // false if a connection was lost
	App       *App      `json:"app,omitempty"`
	Snapshot  *Snapshot `json:"snapshot,omitempty"`
	Template  *Template `json:"template,omitempty"`
	FromPool  bool      `json:"from_pool,omitempty"` // a clone that stood ready
	Elsewhere
	FrozenUS int64            `json:"frozen_us,omitempty"` // how long no process ran
	TotalUS  int64            `json:"total_us,omitempty"`
	StepsUS  map[string]int64 `json:"steps_us,omitempty"`
	Sockets  []Socket         `json:"sockets"` // those that were not simply kept
	Notes    []Note           `json:"notes"`   // what else is not as it was
}

// Elsewhere is about what another host has done.
type Elsewhere struct {
	Host       string `json:"host,omitempty"`        // empty: it was this one
	SentBytes  int64  `json:"sent_bytes,omitempty"`  // to it, as they went over the network
	SavedBytes int64  `json:"saved_bytes,omitempty"` // that were there already
}

// text goes on from the name of an app.
func (e Elsewhere) text() string {
	if e.Host == "" {
		return ""
	}
	return " on " + e.Host
}

// Note is something that the app has otherwise than before, or will have when it comes
// back.
type Note struct {
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

func newNotes(all []*api.Note) []Note {
	return convert(all, func(n *api.Note) Note { return Note{Text: n.GetText(), Remedy: n.GetRemedy()} })
}

// appNotes are those of an app, which has none mostly.
func appNotes(all []*api.Note) []Note {
	if len(all) == 0 {
		return nil
	}
	return newNotes(all)
}

// String is the note for people.
func (n Note) String() string {
	if n.Remedy == "" {
		return n.Text
	}
	return n.Text + ": " + n.Remedy
}

// Socket is what became of a socket.
type Socket struct {
	Socket  string `json:"socket"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

// lost tells whether the app misses the socket that it had.
func (s Socket) lost() bool { return s.Outcome == "reset" || s.Outcome == "unsupported" }

// NewResult reads the API's message.
func NewResult(op Operation, name string, r *api.Result) Result {
	res := Result{
		Operation: op, Name: name, Complete: true, FrozenUS: r.GetFrozenUs(), TotalUS: r.GetTotalUs(), StepsUS: r.GetStepsUs(),
		Sockets: convert(r.GetSockets(), func(s *api.SocketOutcome) Socket {
			return Socket{Socket: s.GetSocket(), Outcome: s.GetOutcome(), Reason: s.GetReason()}
		}),
		Notes:     newNotes(r.GetNotes()),
		Elsewhere: Elsewhere{Host: r.GetHost(), SentBytes: r.GetSent().GetSentBytes(), SavedBytes: r.GetSent().GetSavedBytes()},
	}
	for _, s := range res.Sockets {
		res.Complete = res.Complete && !s.lost()
	}
	if r.GetApp() != nil {
		app := NewApp(r.GetApp())
		res.App = &app
	}
	if r.GetSnapshot() != nil {
		snap := NewSnapshot(r.GetSnapshot())
		res.Snapshot = &snap
	}
	if r.GetTemplate() != nil {
		tmpl := NewTemplate(r.GetTemplate())
		res.Template = &tmpl
	}
	return res
}

// AppName is the app's name, which after a restore is not what was asked for.
func (r Result) AppName() string {
	if r.App != nil {
		return r.App.Name
	}
	return r.Name
}

// Failure is an operation that failed.
type Failure struct {
	Name     string   `json:"name"` // as it was asked for
	Error    string   `json:"error"`
	Hints    []string `json:"hints"`
	ExitCode int      `json:"exit_code"` // what snapctl would end with if this were all
}

// NewFailure reads an error of the client.
func NewFailure(name string, exitCode int, err error) Failure {
	return Failure{Name: name, Error: err.Error(), Hints: list(client.Hints(err)), ExitCode: exitCode}
}

// Results is what operations print.
type Results struct {
	Schema
	Results  []Result  `json:"results"`
	Failures []Failure `json:"failures"`
}

// NewResults collects results and failures.
func NewResults(results []Result, failures []Failure) *Results {
	return &Results{Schema: schema(), Results: list(results), Failures: list(failures)}
}

// Table implements [Document]. It leaves out the failures: they are errors.
func (d *Results) Table(t *Table) {
	for _, r := range d.Results {
		t.Line(r.text())
		if r.Operation != Clone { // in a crowd of clones a number has to do
			r.lost(t)
		}
	}
}

// maxShown is how many lost sockets a table names.
const maxShown = 10

// lost lists the sockets that were lost, those with the same reason together.
func (r Result) lost(t *Table) {
	type group struct{ outcome, reason string }
	var groups []group
	sockets := make(map[group][]string)
	for _, s := range r.Sockets {
		if !s.lost() {
			continue
		}
		g := group{s.Outcome, s.Reason}
		if sockets[g] == nil {
			groups = append(groups, g)
		}
		sockets[g] = append(sockets[g], s.Socket)
	}
	shown := 0
	for _, g := range groups {
		head := "  " + plural(len(sockets[g]), "socket") + " " + g.outcome
		if g.reason != "" {
			head += ": " + g.reason
		}
		t.Line(head)
		for i, s := range sockets[g] {
			if shown == maxShown {
				t.Line(fmt.Sprintf("    and %d more, see --output json", len(sockets[g])-i))
				break
			}
			t.Line("    " + s)
			shown++
		}
	}
}

// text says in one line what was done.
func (r Result) text() string {
	var app App
	if r.App != nil {
		app = *r.App
	}
	var snap Snapshot
	if r.Snapshot != nil {
		snap = *r.Snapshot
	}
	total := ""
	if r.TotalUS > 0 {
		total = " in " + Took(time.Duration(r.TotalUS)*time.Microsecond)
	}
	var detail []string
	if r.FrozenUS > 0 {
		detail = append(detail, "frozen "+Took(time.Duration(r.FrozenUS)*time.Microsecond))
	}
	text := r.Name
	switch r.Operation {
	case Hibernate:
		text += " hibernated"
		if app.Status == "running" || app.Status == "waking" {
			detail = append(detail, "awake again already, by "+cmp.Or(app.wokenBy(), "traffic or a command"))
		} else {
			detail = append(detail, plural(int(app.HeldSockets), "socket")+" held")
		}
	case WakeUp:
		text += " woken" + r.Elsewhere.text() + total
		detail = nil
	case TakeSnapshot:
		text += " saved as " + snap.Name
		detail = append(detail, Size(snap.SizeBytes))
	case Restore:
		text = fmt.Sprintf("%s restored from %s at %s%s%s", app.Name, r.Name, app.Endpoint, r.Elsewhere.text(), total)
		detail = nil
		if r.SentBytes > 0 {
			detail = append(detail, Size(r.SentBytes)+" sent")
		}
		if n := r.count("kept"); n > 0 {
			detail = append(detail, plural(n, "connection")+" inside kept")
		}
	case Clone:
		text += " cloned at " + app.Endpoint + r.Elsewhere.text() + total
		if r.FromPool {
			detail = append(detail, "from the pool")
		}
		if n := r.count("reset"); n > 0 {
			detail = append(detail, plural(n, "connection")+" reset")
		}
	case CreateTemplate:
		text = r.templateText()
		if r.FrozenUS == 0 {
			detail = nil
		}
	case RemoveTemplate:
		text = "template " + text + " removed"
	case RemoveHost:
		text = "host " + text + " removed"
	case Stop:
		text += " stopped"
		if app.Exit != "" {
			detail = append(detail, app.Exit)
		}
	case Remove:
		text += " removed"
	case RemoveSnapshot:
		text = "snapshot " + text + " removed"
	}
	if len(detail) > 0 {
		text += ": " + strings.Join(detail, ", ")
	}
	return text
}
