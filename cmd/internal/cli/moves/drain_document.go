package moves

import (
	"fmt"
	"time"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// Drain is what host drain prints.
type Drain struct {
	output.Schema
	Host    string    `json:"host"` // this one
	DryRun  bool      `json:"dry_run"`
	Stopped bool      `json:"stopped"` // it was ended before all apps were looked at
	Moved   []Drained `json:"moved"`
	Stayed  []Drained `json:"stayed"`
	TotalUS int64     `json:"total_us"`
}

// Drained is what became of an app.
type Drained struct {
	App    string `json:"app"`
	Status string `json:"status,omitempty"` // that it had; absent if it was not looked at
	*DrainMove
	*DrainStay
}

// DrainMove is how an app moved.
type DrainMove struct {
	Host        string   `json:"host"` // where it is now; with dry_run: where it could be
	SentBytes   int64    `json:"sent_bytes"`
	SavedBytes  int64    `json:"saved_bytes"`
	PauseUS     int64    `json:"pause_us"` // how long its packets waited
	StoodUS     int64    `json:"stood_us"` // how long its processes stood still in the end
	Connections int      `json:"connections"`
	Lost        []string `json:"lost"` // sockets that did not move, and why
	Notes       []string `json:"notes"`
	Trouble     string   `json:"trouble,omitempty"` // what went wrong when the app was there already
}

// DrainStay is why an app stays.
type DrainStay struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

func newDrain(r *api.DrainResult, req *api.DrainRequest) *Drain {
	d := &Drain{
		Schema: output.Schema{Version: output.SchemaVersion}, Host: r.GetHost(), DryRun: req.GetDryRun(), Stopped: r.GetStopped(),
		Moved: []Drained{}, Stayed: []Drained{}, TotalUS: r.GetTotalUs(),
	}
	for _, a := range r.GetApps() {
		if one := newDrained(a); one.DrainMove != nil {
			d.Moved = append(d.Moved, one)
		} else {
			d.Stayed = append(d.Stayed, one)
		}
	}
	return d
}

func newDrained(a *api.DrainedApp) Drained {
	d := Drained{App: a.GetApp(), Status: a.GetStatus()}
	m := a.GetMove()
	if m == nil {
		d.DrainStay = &DrainStay{Error: a.GetError(), Hint: a.GetHint()}
		return d
	}
	d.DrainMove = &DrainMove{
		Host: m.GetTo(), SentBytes: m.GetSentBytes(), SavedBytes: m.GetSavedBytes(), PauseUS: m.GetPauseUs(), StoodUS: m.GetStoodUs(),
		Connections: int(m.GetConnections()), Lost: append([]string{}, a.GetLost()...), Notes: append([]string{}, a.GetNotes()...), Trouble: m.GetTrouble(),
	}
	return d
}

// text is a line about it, and lines that are further in.
func (d *Drained) text(dryRun bool) (line string, more []string) {
	m := d.DrainMove
	switch {
	case m == nil && d.Hint != "":
		return d.App + " stays: " + d.Error, []string{d.Hint}
	case m == nil:
		return d.App + " stays: " + d.Error, nil
	case dryRun:
		return d.App + " can move to " + m.Host, m.Notes
	}
	line = fmt.Sprintf("%s moved to %s: %s sent, %s were there", d.App, m.Host, output.Size(m.SentBytes), output.Size(m.SavedBytes))
	for _, t := range []struct {
		what string
		us   int64
	}{{"stood still", m.StoodUS}, {"packets waited", m.PauseUS}} {
		if t.us > 0 {
			line += fmt.Sprintf("; %s %s", t.what, output.Took(time.Duration(t.us)*time.Microsecond))
		}
	}
	for _, l := range m.Lost {
		more = append(more, "lost: "+l)
	}
	if m.Trouble != "" {
		more = append(more, m.Trouble)
	}
	return line, append(more, m.Notes...)
}

// oneDrained is one app, as soon as it is known what became of it.
type oneDrained struct {
	Drained
	dryRun bool
}

// Table implements [output.Document].
func (d oneDrained) Table(t *output.Table) {
	line, more := d.text(d.dryRun)
	t.Line(line)
	for _, l := range more {
		t.Line("  " + l)
	}
}

// Table implements [output.Document]. What became of apps was printed before, but for those that were not looked at.
func (d *Drain) Table(t *output.Table) {
	text := fmt.Sprintf("%d of %d apps moved", len(d.Moved), len(d.Moved)+len(d.Stayed))
	if d.DryRun {
		text = fmt.Sprintf("%d of %d apps can move", len(d.Moved), len(d.Moved)+len(d.Stayed))
	} else {
		text += fmt.Sprintf("; host %s is cordoned", d.Host)
	}
	t.Line(text)
	for i := range d.Stayed {
		if d.Stayed[i].Status == "" {
			line, _ := d.Stayed[i].text(false)
			t.Line("  " + line)
		}
	}
}

// failure is what the command ends with; nil: all is well.
func (d *Drain) failure() error {
	code := session.Partly
	switch verb := map[bool]string{false: "stay", true: "can't move"}[d.DryRun]; {
	case len(d.Stayed) > 0 && len(d.Moved) == 0:
		code = session.Failed
		fallthrough
	case len(d.Stayed) > 0:
		return &session.ExitError{Code: code, Text: fmt.Sprintf("%d of %d apps %s", len(d.Stayed), len(d.Moved)+len(d.Stayed), verb)}
	}
	for _, m := range d.Moved {
		if len(m.Lost) > 0 || m.Trouble != "" {
			return &session.ExitError{Code: code, Text: "all apps moved, but not all of them came there as they were"}
		}
	}
	return nil
}
