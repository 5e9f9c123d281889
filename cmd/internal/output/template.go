package output

import (
	"fmt"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// Template is one template.
type Template struct {
	Name      string    `json:"name"`
	Snapshot  string    `json:"snapshot"`
	App       string    `json:"app"` // that was saved
	CreatedAt time.Time `json:"created_at,omitzero"`
	SharedByClones

	Network        string   `json:"network"`
	InsideEndpoint string   `json:"inside_endpoint"` // by which clones know themselves
	Args           []string `json:"args"`
	Processes      int32    `json:"processes"` // of each clone

	Clones     []string    `json:"clones"` // apps
	Pool       Pool        `json:"pool"`
	Parameters []Parameter `json:"parameters"`
	Rules      string      `json:"rules,omitempty"` // YAML

	WouldNotStart []Obstacle `json:"would_not_start,omitempty"` // its clones
}

// SharedByClones is what the clones of a template have in common.
type SharedByClones struct {
	MemoryBytes    int64 `json:"memory_bytes"`
	StorageBytes   int64 `json:"storage_bytes"`    // files
	HostFilesBytes int64 `json:"host_files_bytes"` // kept files of the host
}

func (s SharedByClones) shared() string {
	text := fmt.Sprintf("memory %s, files %s", Size(s.MemoryBytes), Size(s.StorageBytes))
	if s.HostFilesBytes > 0 {
		text += ", kept files of the host " + Size(s.HostFilesBytes)
	}
	return text
}

// Pool is clones that stand ready.
type Pool struct {
	Size  int32  `json:"size"` // that are to
	Ready int32  `json:"ready"`
	Error string `json:"error,omitempty"` // why they don't
}

// Parameter may be set for each clone.
type Parameter struct {
	Key         string `json:"key"`
	Description string `json:"description,omitempty"`
	Default     string `json:"default,omitempty"`
	Required    bool   `json:"required"`
	Pattern     string `json:"pattern,omitempty"`
}

// NewTemplate reads the API's message.
func NewTemplate(t *api.Template) Template {
	return Template{
		Name: t.GetName(), Snapshot: t.GetSnapshot(), App: t.GetApp(), CreatedAt: utc(t.GetCreatedAt()),
		SharedByClones: SharedByClones{MemoryBytes: t.GetMemoryBytes(), StorageBytes: t.GetStorageBytes(), HostFilesBytes: t.GetHostFilesBytes()},
		Network:        t.GetNetwork(), InsideEndpoint: t.GetInsideEndpoint(), Args: list(t.GetArgs()), Processes: t.GetProcesses(),
		Clones: list(t.GetClones()), Pool: Pool{Size: t.GetPoolSize(), Ready: t.GetPoolReady(), Error: t.GetPoolError()},
		Parameters: convert(t.GetParameters(), func(p *api.Parameter) Parameter {
			return Parameter{Key: p.GetKey(), Description: p.GetDescription(), Default: p.GetDefaultText(), Required: p.GetRequired(), Pattern: p.GetPattern()}
		}),
		Rules: t.GetRulesYaml(), WouldNotStart: obstacles(t.GetWouldNotStart()),
	}
}

// text is the pool for people; none is left out.
func (p Pool) text() string {
	if p.Size == 0 && p.Ready == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d", p.Ready, p.Size)
}

func (p Parameter) text() string {
	var about []string
	if p.Description != "" {
		about = append(about, p.Description)
	}
	if p.Required {
		about = append(about, "required")
	}
	if p.Default != "" {
		about = append(about, "default "+p.Default)
	}
	if p.Pattern != "" {
		about = append(about, "matches "+p.Pattern)
	}
	return strings.Join(about, "; ")
}

// TemplateList is what template ls prints.
type TemplateList struct {
	Schema
	Templates []Template `json:"templates"`
}

// NewTemplateList reads the API's messages.
func NewTemplateList(all []*api.Template) *TemplateList {
	return &TemplateList{Schema: schema(), Templates: convert(all, NewTemplate)}
}

// Table implements [Document].
func (d *TemplateList) Table(t *Table) {
	rows := convert(d.Templates, func(m Template) []string {
		return []string{
			m.Name, m.Snapshot, t.age(m.CreatedAt), Size(m.MemoryBytes), Size(m.StorageBytes), number(int32(len(m.Clones))),
			m.Pool.text(), shorten(Command(m.Args), 40),
		}
	})
	head := []string{"NAME", "SNAPSHOT", "AGE", "MEMORY", "FILES", "CLONES", "POOL", "COMMAND"}
	t.Rows(warn(head, rows, convert(d.Templates, func(m Template) []Obstacle { return m.WouldNotStart })))
}

// TemplateDetail is what template show and template pool print.
type TemplateDetail struct {
	Schema
	Template Template `json:"template"`
}

// NewTemplateDetail reads the API's message.
func NewTemplateDetail(t *api.Template) *TemplateDetail {
	return &TemplateDetail{Schema: schema(), Template: NewTemplate(t)}
}

// Table implements [Document].
func (d *TemplateDetail) Table(t *Table) {
	m := d.Template
	t.Fields([]Field{
		{"name", m.Name},
		{"snapshot", m.Snapshot},
		{"app", m.App},
		{"command", Command(m.Args)},
		{"processes", number(m.Processes)},
		{"inside endpoint", m.InsideEndpoint},
		{"network", m.Network},
		{"created", stamp(m.CreatedAt)},
		{"shared", m.shared()},
		{"would not start", obstacleText(m.WouldNotStart)},
		{"clones", shorten(strings.Join(m.Clones, ", "), 200)},
		{"pool", m.Pool.text()},
		{"pool error", m.Pool.Error},
	})
	if len(m.Parameters) > 0 {
		t.Line("")
		t.Rows([]string{"PARAMETER", "MEANING"}, convert(m.Parameters, func(p Parameter) []string { return []string{p.Key, p.text()} }))
	}
	if m.Rules != "" {
		t.Line("")
		t.Line("rules:")
		for line := range strings.Lines(m.Rules) {
			t.Line(strings.TrimRight("  "+strings.ReplaceAll(strings.TrimRight(line, "\n"), "\t", "    "), " "))
		}
	}
}

// PoolChange is what template pool prints: what the template is then.
type PoolChange struct{ TemplateDetail }

// NewPoolChange reads the API's message.
func NewPoolChange(t *api.Template) *PoolChange { return &PoolChange{*NewTemplateDetail(t)} }

// Table implements [Document].
func (d *PoolChange) Table(t *Table) {
	m := d.Template
	if m.Pool.Size == 0 {
		t.Line("no clones of " + m.Name + " stand ready")
		return
	}
	t.Line(fmt.Sprintf("%s of %s to stand ready, %d do", plural(int(m.Pool.Size), "clone"), m.Name, m.Pool.Ready))
}

// templateText says in one line what template was made.
func (r Result) templateText() string {
	var m Template
	if r.Template != nil {
		m = *r.Template
	}
	return fmt.Sprintf("template %s made of snapshot %s: %s", r.Name, m.Snapshot, m.shared())
}
