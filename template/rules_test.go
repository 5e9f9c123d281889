package template

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden files")

func parseFile(t *testing.T, name string) *Rules {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	qt.Assert(t, qt.IsNil(err))
	r, err := Parse(text)
	qt.Assert(t, qt.IsNil(err))
	return r
}

func TestParse(t *testing.T) {
	r := parseFile(t, "full.yaml")
	want := &Rules{
		Hostname:  "{{ .Name }}",
		MachineID: MachineIDUnique,
		Env:       map[string]Text{"WORKER": "{{ .Number }}", "MODE": "production"},
		Files: []File{
			{Path: "/etc/worker.conf", Mode: "0640", Owner: "worker:worker", Template: r.Files[0].Template},
			{Path: "/etc/motd", Content: new("{{ not rendered }}\n")},
		},
		Redirect: []Redirect{{Path: "/var/lib/worker", Target: "/srv/{{ .Name }}"}},
		Run: []Command{
			{Args: []Text{"/usr/local/bin/reseed", "--id", "{{ .Number }}"}, Timeout: 5e9, User: "worker"},
			{Args: []Text{"/bin/true"}},
		},
		Signal:      "HUP",
		Connections: Connections{Inbound: ConnectionReset, Outbound: ConnectionReset, Internal: ConnectionKeep},
		Publish: []Publication{
			{HostAddress: "127.0.0.1", HostPort: "{{ add 8000 .Number }}", Port: "80", Protocol: TCP},
			{HostPort: "{{ add 9000 .Number .Set.STEP }}", Port: "53", Protocol: UDP},
		},
		Parameters: map[string]Parameter{
			"GREETING": {Description: "what it says to clients", Default: new(Text("hello from {{ .Name }}")), Pattern: "[a-z0-9 -]+"},
			"STEP":     {Default: new(Text("10"))},
			"TOKEN":    {Default: new(Text("{{ random 16 }}")), Secret: true},
			"OWNER":    {Required: true},
		},
	}
	qt.Assert(t, qt.CmpEquals(r, want, cmpopts.IgnoreUnexported(Rules{})))
	qt.Check(t, qt.Equals(r.at["files[0].mode"], position{line: 9, column: 11}))
}

func TestParseNothing(t *testing.T) {
	for _, text := range []string{"", "# only a comment\n", "---\n", "~\n", "{}", "env:\nfiles:\n"} {
		r, err := Parse([]byte(text))
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%q", text))
		qt.Check(t, qt.CmpEquals(r, &Rules{}, cmpopts.IgnoreUnexported(Rules{})))
	}
}

// Each error says where it is and what is allowed.
func TestParseErrors(t *testing.T) {
	const name = "testdata/errors.txtar"
	golden, err := txtar.ParseFile(name)
	qt.Assert(t, qt.IsNil(err))
	want := make(map[string]string)
	var kept []txtar.File
	for _, f := range golden.Files {
		if base, ok := strings.CutSuffix(f.Name, ".want"); ok {
			want[base] = string(f.Data)
		} else {
			kept = append(kept, f)
		}
	}
	var updated []txtar.File
	for _, f := range kept {
		base := strings.TrimSuffix(f.Name, ".yaml")
		_, err := Parse(f.Data)
		qt.Assert(t, qt.ErrorIs(err, ErrInvalid), qt.Commentf("%s", base))
		var all RuleErrors
		qt.Assert(t, qt.ErrorAs(err, &all))
		for _, p := range all {
			qt.Check(t, qt.IsTrue(p.Line > 0 && p.Column > 0), qt.Commentf("%s: %v", base, p))
		}
		got := err.Error() + "\n"
		updated = append(updated, f, txtar.File{Name: base + ".want", Data: []byte(got)})
		if !*update {
			qt.Check(t, qt.Equals(got, want[base]), qt.Commentf("%s", base))
		}
	}
	if *update {
		golden.Files = updated
		qt.Assert(t, qt.IsNil(os.WriteFile(name, txtar.Format(golden), 0o644)))
	}
}

func TestParseTooLong(t *testing.T) {
	_, err := Parse(make([]byte, maxRules+1))
	qt.Assert(t, qt.ErrorMatches(err, "line 1, column 1: 1048577 bytes: rules are at most 1048576"))
}

func FuzzParse(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	golden, err := txtar.ParseFile("testdata/errors.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range golden.Files {
		f.Add(file.Data)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Parse(text)
		if err != nil {
			var all RuleErrors
			qt.Assert(t, qt.ErrorAs(err, &all))
			for _, p := range all {
				qt.Assert(t, qt.IsTrue(p.Line > 0 && p.Column > 0 && p.Text != ""))
			}
			return
		}
		qt.Assert(t, qt.IsNil(r.Validate()))
	})
}
