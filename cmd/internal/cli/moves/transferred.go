package moves

import (
	"cmp"
	"fmt"
	"time"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// Transferred is what the commands print that take snapshots and templates to other hosts, or get them.
type Transferred struct {
	output.Schema
	Operation string `json:"operation"` // "pushed" or "pulled"
	// Snapshot or Template is its name where it was.
	Snapshot string `json:"snapshot,omitempty"`
	Template string `json:"template,omitempty"`
	As       string `json:"as"`   // its name where it is now, too
	Host     string `json:"host"` // the other one
	// TotalBytes is what the files have that were missing, and SentBytes what went over the network for
	// them. SavedBytes is what the files have that were there.
	TotalBytes int64    `json:"total_bytes"`
	SentBytes  int64    `json:"sent_bytes"`
	SavedBytes int64    `json:"saved_bytes"`
	Files      int32    `json:"files"` // that were sent
	TookUS     int64    `json:"took_us"`
	Notes      []string `json:"notes"`

	where string
}

// newTransferred reads the API's message.
func newTransferred(t *transfer, name string, r *api.TransferResult) *Transferred {
	d := &Transferred{
		Schema: output.Schema{Version: output.SchemaVersion}, Operation: t.done, As: r.GetSnapshot(), Host: r.GetHost(),
		TotalBytes: r.GetTotal().GetTotalBytes(), SentBytes: r.GetTotal().GetSentBytes(), SavedBytes: r.GetTotal().GetSavedBytes(), Files: r.GetTotal().GetFiles(),
		TookUS: r.GetTookUs(), Notes: append([]string{}, r.GetNotes()...), where: t.where,
	}
	if t.what == "template" {
		d.Template = name
	} else {
		d.Snapshot = name
	}
	return d
}

// Table implements [output.Document].
func (d *Transferred) Table(t *output.Table) {
	name := cmp.Or(d.Template, d.Snapshot)
	text := name + " " + d.Operation + " " + d.where + " host " + d.Host
	if d.As != name {
		text += " as " + d.As
	}
	text += fmt.Sprintf(" in %s: %s sent for %s", output.Took(time.Duration(d.TookUS)*time.Microsecond), output.Size(d.SentBytes), output.Size(d.TotalBytes))
	if d.SavedBytes > 0 {
		text += fmt.Sprintf(", and %s were there already", output.Size(d.SavedBytes))
	}
	t.Line(text)
}
