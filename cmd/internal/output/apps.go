package output

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// AppList is what ps prints.
type AppList struct {
	Schema
	Apps []App `json:"apps"`
}

// NewAppList reads the API's messages.
func NewAppList(apps []*api.App) *AppList {
	return &AppList{Schema: schema(), Apps: convert(apps, NewApp)}
}

// Table implements [Document].
func (d *AppList) Table(t *Table) {
	head := []string{"NAME", "STATUS", "SINCE", "ENDPOINT", "NETWORK", "PROCESSES", "MEMORY", "HELD", "COMMAND"}
	clones := slices.ContainsFunc(d.Apps, func(a App) bool { return a.Template != "" })
	if clones {
		head = slices.Insert(head, 1, "CLONE OF")
	}
	apps := slices.SortedFunc(slices.Values(d.Apps), func(a, b App) int { return byNumber(a.Name, b.Name) })
	rows := convert(apps, func(a App) []string {
		memory := ""
		if a.MemoryBytes > 0 {
			memory = Size(a.MemoryBytes)
		}
		row := []string{
			a.Name, a.Status, t.age(a.StatusAt), a.Endpoint, a.Network, number(a.Processes), memory,
			number(a.HeldSockets), shorten(Command(a.Args), 40),
		}
		if clones {
			row = slices.Insert(row, 1, a.Template)
		}
		return row
	})
	t.Rows(warn(head, rows, convert(apps, func(a App) []Obstacle { return a.WouldNotStart })))
}

// AppDetail is what show prints.
type AppDetail struct {
	Schema
	App App `json:"app"`
}

// NewAppDetail reads the API's message.
func NewAppDetail(a *api.App) *AppDetail { return &AppDetail{Schema: schema(), App: NewApp(a)} }

// Table implements [Document].
func (d *AppDetail) Table(t *Table) {
	a := d.App
	status := a.Status
	if age := t.age(a.StatusAt); age != "" {
		status += " for " + age
	}
	t.Fields([]Field{
		{"name", a.Name},
		{"status", status},
		{"operation", a.Operation},
		{"error", strings.ReplaceAll(a.Error, "\n", "; ")},
		{"hint", a.Hint},
		{"would not start", obstacleText(a.WouldNotStart)},
		{"notes", strings.Join(convert(a.Notes, Note.String), "; ")},
		{"exit", a.Exit},
		{"command", Command(a.Args)},
		{"pid", number(a.PID)},
		{"processes", number(a.Processes)},
		{"memory", Size(a.MemoryBytes)},
		{"held sockets", number(a.HeldSockets)},
		{"endpoint", a.Endpoint},
		{"endpoint6", a.Endpoint6},
		{"inside endpoint", a.InsideEndpoint},
		{"network", a.Network},
		{"published", strings.Join(convert(a.Publish, Publication.text), ", ")},
		{"wake", a.Wake.text()},
		{"hibernates", a.hibernates()},
		{"awake", a.Awake},
		{"alarm", a.alarm()},
		{"woken by", a.wokenBy()},
		{"called off", a.calledOff()},
		{"restores memory", a.RestoreMemory},
		{"may lose", strings.Join(a.AcceptLost, ", ")},
		{"changed files", a.changedFiles()},
		{"limits", a.Limits.text()},
		{"rootfs", a.Rootfs},
		{"binds", strings.Join(convert(a.Binds, Bind.text), ", ")},
		{"hostname", a.Hostname},
		{"user", a.User},
		{"workdir", a.Workdir},
		{"restored from", a.RestoredFrom},
		{"clone of", a.cloneOf()},
		{"generation", a.Generation},
		{"created", stamp(a.CreatedAt)},
	})
}

func (i Identity) cloneOf() string {
	if i.Template == "" {
		return ""
	}
	return fmt.Sprintf("%s, number %d", i.Template, i.Number)
}

func (p Publication) text() string {
	host := p.HostAddress
	switch {
	case host == "":
		host = "*"
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d -> %d/%s", host, p.HostPort, p.Port, p.Protocol)
}

func (b Bind) text() string {
	if b.ReadOnly {
		return b.Source + " at " + b.Destination + " (read only)"
	}
	return b.Source + " at " + b.Destination
}

func (w Wake) text() string {
	text := strings.ReplaceAll(w.Mode, "-", " ")
	if w.MinBytes > 1 {
		text += fmt.Sprintf(", at least %d bytes", w.MinBytes)
	}
	switch {
	case w.SilentAfterUS == nil:
	case *w.SilentAfterUS == 0:
		text += ", not by silent connections"
	default:
		text += fmt.Sprintf(", by a connection that is silent for %s", time.Duration(*w.SilentAfterUS)*time.Microsecond)
	}
	if w.Timers {
		text += ", and by its timers"
	}
	if len(w.Ignore) > 0 {
		text += ", not from " + strings.Join(w.Ignore, ", ")
	}
	switch w.Elsewhere {
	case "":
	case "any":
		text += ", on any host"
	default:
		text += ", on host " + w.Elsewhere
	}
	return text
}

func (p Policy) alarm() string {
	if p.Alarm == nil {
		return ""
	}
	if !p.Wake.Timers {
		return "not woken by its timers: " + p.Alarm.Timer + " stands still"
	}
	return fmt.Sprintf("wakes by its timer at %s: %s", stamp(p.Alarm.At), p.Alarm.Timer)
}

func (p Policy) wokenBy() string {
	switch p.WokenBy {
	case "", "command":
		return p.WokenBy
	case "timer":
		return "its timer"
	default:
		return "traffic (" + p.WokenBy + ")"
	}
}

func (p Policy) calledOff() string {
	if p.CalledOff == 0 {
		return ""
	}
	return plural(p.CalledOff, "hibernation") + ", by traffic that came before it slept"
}

func (p Policy) hibernates() string {
	if p.HibernateAfterUS == 0 {
		return "by command only"
	}
	return fmt.Sprintf("after %s without traffic", time.Duration(p.HibernateAfterUS)*time.Microsecond)
}

// changedFiles says whether files below binds may be missing when it comes back.
func (p Policy) changedFiles() string {
	if !p.AcceptChangedFiles {
		return ""
	}
	return "accepted: files of binds that are gone are made, empty"
}

func (l Limits) text() string {
	var parts []string
	if l.MemoryBytes > 0 {
		parts = append(parts, Size(l.MemoryBytes)+" of memory")
	}
	if l.CPUs > 0 {
		parts = append(parts, strconv.FormatFloat(l.CPUs, 'g', -1, 64)+" processors")
	}
	if l.PIDs > 0 {
		parts = append(parts, strconv.FormatInt(l.PIDs, 10)+" processes")
	}
	return strings.Join(parts, ", ")
}

// Started is what run prints.
type Started struct {
	Schema
	App App `json:"app"`
}

// NewStarted reads the API's message.
func NewStarted(a *api.App) *Started { return &Started{Schema: schema(), App: NewApp(a)} }

// Table implements [Document].
func (d *Started) Table(t *Table) {
	t.Line(fmt.Sprintf("%s %s at %s, pid %d", d.App.Name, d.App.Status, d.App.Endpoint, d.App.PID))
}
