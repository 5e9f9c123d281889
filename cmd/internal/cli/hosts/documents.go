package hosts

import (
	"fmt"
	"strings"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// directoryDocument is how the directory of the installation is: what host directory status prints, and
// restore and defragment in the end.
type directoryDocument struct {
	output.Schema
	URLs    []string         `json:"urls"`
	Own     bool             `json:"own"` // it is an etcd cluster of one's own
	Members []memberDocument `json:"members"`
	Notes   []string         `json:"notes"` // what is not as it should be
}

// memberDocument is a member of the directory.
type memberDocument struct {
	Host       string   `json:"host,omitempty"` // absent: it was added and has not started
	ID         string   `json:"id"`             // etcd's
	Self       bool     `json:"self"`           // it runs on the host that was asked
	Answers    bool     `json:"answers"`
	Leads      bool     `json:"leads"`
	Votes      bool     `json:"votes"`  // false: it is new, and catches up
	Behind     uint64   `json:"behind"` // changes that it has still to make
	Version    string   `json:"version,omitempty"`
	SizeBytes  int64    `json:"size_bytes"`
	InUseBytes int64    `json:"in_use_bytes"`
	QuotaBytes int64    `json:"quota_bytes"`
	Full       bool     `json:"full"`
	Corrupt    bool     `json:"corrupt"`
	URLs       []string `json:"urls"`
	Error      string   `json:"error,omitempty"`
}

// newDirectoryDocument reads the API's message.
func newDirectoryDocument(d *api.Directory) *directoryDocument {
	doc := &directoryDocument{Schema: output.Schema{Version: output.SchemaVersion}, URLs: append([]string{}, d.GetUrls()...), Own: d.GetOwn(), Members: []memberDocument{}, Notes: []string{}}
	for _, m := range d.GetMembers() {
		doc.Members = append(doc.Members, newMemberDocument(m))
	}
	if why := d.GetLeaderless(); why != "" {
		doc.note("no member leads: nothing can be changed until more than half of the members run and reach each other (%s)", why)
	}
	for _, m := range doc.Members {
		doc.judge(m)
	}
	return doc
}

func newMemberDocument(m *api.DirectoryMember) memberDocument {
	return memberDocument{
		Host: m.GetHost(), ID: m.GetId(), Self: m.GetSelf(), Answers: m.GetAnswers(), Leads: m.GetLeads(), Votes: !m.GetLearner(), Behind: m.GetBehind(),
		Version: m.GetVersion(), SizeBytes: m.GetSizeBytes(), InUseBytes: m.GetInUseBytes(), QuotaBytes: m.GetQuotaBytes(),
		Full: m.GetFull(), Corrupt: m.GetCorrupt(), URLs: append([]string{}, m.GetUrls()...), Error: m.GetError(),
	}
}

func (d *directoryDocument) note(format string, args ...any) {
	d.Notes = append(d.Notes, fmt.Sprintf(format, args...))
}

// nearlyFull is how much of the quota may be in use, in percent, before it is told.
const nearlyFull = 80

// judge notes what is not as it should be with a member.
func (d *directoryDocument) judge(m memberDocument) {
	name := m.Host
	if name == "" {
		name = "a member (" + m.ID + ")"
	}
	switch {
	case m.Error != "":
		d.note("%s: %s", name, m.Error)
	case !m.Answers:
		d.note("%s does not answer", name)
	}
	switch {
	case m.Corrupt:
		d.note("%s has other data than the other members: take it out, and let it join again", name)
	case m.Full:
		d.note("%s is full, so that the directory takes no entries: `snapctl host directory defragment` makes room", name)
	case m.Answers && m.QuotaBytes > 0 && m.InUseBytes > m.QuotaBytes/100*nearlyFull:
		d.note("%s is nearly full: at %s the directory takes no entries any more", name, output.Size(m.QuotaBytes))
	}
}

// Table implements [output.Document].
func (d *directoryDocument) Table(t *output.Table) {
	var rows [][]string
	for _, m := range d.Members {
		host := m.Host
		if m.Self {
			host += " (this host)"
		}
		if !m.Answers {
			rows = append(rows, []string{host, m.state(), "", "", "", "", "", strings.Join(m.URLs, " ")})
			continue
		}
		rows = append(rows, []string{host, m.state(), fmt.Sprint(m.Behind), output.Size(m.SizeBytes), output.Size(m.InUseBytes), output.Size(m.QuotaBytes), m.Version, strings.Join(m.URLs, " ")})
	}
	t.Rows([]string{"HOST", "STATE", "BEHIND", "SIZE", "IN USE", "LIMIT", "ETCD", "URLS"}, rows)
	for _, note := range d.Notes {
		t.Line("note: " + note)
	}
}

func (m memberDocument) state() string {
	switch {
	case !m.Answers && m.Host == "":
		return "not started"
	case !m.Answers:
		return "silent"
	case m.Corrupt:
		return "corrupt"
	case m.Full:
		return "full"
	case !m.Votes:
		return "catches up"
	case m.Leads:
		return "leads"
	}
	return "follows"
}

// backupDocument is what host directory backup prints.
type backupDocument struct {
	output.Schema
	Path      string `json:"path"`
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256"` // of the content, without the digest at its end
}

// newBackupDocument reads the API's message.
func newBackupDocument(b *api.DirectoryBackup) *backupDocument {
	return &backupDocument{Schema: output.Schema{Version: output.SchemaVersion}, Path: b.GetPath(), SizeBytes: b.GetSizeBytes(), SHA256: b.GetSha256()}
}

// Table implements [output.Document].
func (d *backupDocument) Table(t *output.Table) {
	t.Line(fmt.Sprintf("directory saved in %s, %s", d.Path, output.Size(d.SizeBytes)))
}

// leftDocument is what host leave prints.
type leftDocument struct {
	output.Schema
	Name string `json:"name"` // that the host had
}

// newLeftDocument tells that a host has left.
func newLeftDocument(name string) *leftDocument {
	return &leftDocument{Schema: output.Schema{Version: output.SchemaVersion}, Name: name}
}

// Table implements [output.Document].
func (d *leftDocument) Table(t *output.Table) {
	t.Line("host " + d.Name + " has left its installation")
}
