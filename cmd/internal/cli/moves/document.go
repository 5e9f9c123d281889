package moves

import (
	"fmt"
	"time"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// Migration is what migrate prints.
type Migration struct {
	output.Schema
	App        string `json:"app"`
	From       string `json:"from"`
	Host       string `json:"host"` // where it is now; with dry_run: where it could be
	DryRun     bool   `json:"dry_run"`
	SentBytes  int64  `json:"sent_bytes"`  // as they went over the network
	SavedBytes int64  `json:"saved_bytes"` // that the target had already
	Times
	Rounds      []Round  `json:"rounds"`      // what was sent while it ran
	Connections int      `json:"connections"` // that moved
	Lost        []Lost   `json:"lost"`        // sockets that did not
	Notes       []string `json:"notes"`
	Trouble     string   `json:"trouble,omitempty"` // what went wrong when the app was there already
}

// Round is one snapshot that was sent while the app ran.
type Round struct {
	SentBytes  int64 `json:"sent_bytes"`
	SavedBytes int64 `json:"saved_bytes"`
	FrozenUS   int64 `json:"frozen_us"` // how long the app stood still for it
	TookUS     int64 `json:"took_us"`
}

// Times are how long parts of a move took.
type Times struct {
	PauseUS int64 `json:"pause_us"` // how long packets of the app waited
	StoodUS int64 `json:"stood_us"` // how long its processes stood still at the end, without the rounds
	WokenUS int64 `json:"woken_us"` // of that, how long the target took to wake it
	TotalUS int64 `json:"total_us"`
	// StepsUS are those of this host, by their names.
	StepsUS map[string]int64 `json:"steps_us"`
}

// Lost is a socket that did not move.
type Lost struct {
	Socket  string `json:"socket"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason"`
}

func newMigration(r *api.Result) *Migration {
	m := r.GetMove()
	d := &Migration{
		Schema: output.Schema{Version: output.SchemaVersion}, App: m.GetApp(), From: m.GetFrom(), Host: m.GetTo(), DryRun: m.GetDryRun(),
		SentBytes: m.GetSentBytes(), SavedBytes: m.GetSavedBytes(),
		Times: Times{PauseUS: m.GetPauseUs(), StoodUS: m.GetStoodUs(), WokenUS: m.GetWokenUs(), TotalUS: r.GetTotalUs(), StepsUS: r.GetStepsUs()}, Connections: int(m.GetConnections()), Rounds: []Round{}, Lost: []Lost{}, Notes: []string{}, Trouble: m.GetTrouble(),
	}
	for _, o := range m.GetRounds() {
		d.Rounds = append(d.Rounds, Round{o.GetSentBytes(), o.GetSavedBytes(), o.GetFrozenUs(), o.GetTookUs()})
	}
	for _, l := range r.GetSockets() {
		d.Lost = append(d.Lost, Lost{l.GetSocket(), l.GetOutcome(), l.GetReason()})
	}
	for _, n := range r.GetNotes() {
		d.Notes = append(d.Notes, n.GetText())
	}
	return d
}

// Table implements [output.Document].
func (d *Migration) Table(t *output.Table) {
	if d.DryRun {
		t.Line(fmt.Sprintf("%s can move from %s to %s", d.App, d.From, d.Host))
		return
	}
	took := func(us int64) string { return output.Took(time.Duration(us) * time.Microsecond) }
	text := fmt.Sprintf("%s moved to %s: %s sent, %s were there", d.App, d.Host, output.Size(d.SentBytes), output.Size(d.SavedBytes))
	if d.StoodUS > 0 {
		text += fmt.Sprintf("; stood still %s", took(d.StoodUS))
	}
	if d.PauseUS > 0 {
		text += fmt.Sprintf("; packets waited %s", took(d.PauseUS))
		if d.Connections == 1 {
			text += "; 1 connection moved"
		} else {
			text += fmt.Sprintf("; %d connections moved", d.Connections)
		}
	}
	t.Line(text)
	for _, l := range d.Lost {
		t.Line(fmt.Sprintf("  %s: %s, %s", l.Socket, l.Outcome, l.Reason))
	}
}
