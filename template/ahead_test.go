package template

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

// What is done ahead is not done again, and what can't be is left for later.
func TestAhead(t *testing.T) {
	content := "x"
	for name, test := range map[string]struct {
		rules Rules
		ahead bool // the machine id is new before the plan is applied
		after bool // and when it is
	}{
		"no rules":   {Rules{}, true, false},
		"unique":     {Rules{MachineID: MachineIDUnique}, true, false},
		"keep":       {Rules{MachineID: MachineIDKeep}, false, false},
		"a file":     {Rules{Files: []File{{Path: "/etc/app.conf", Content: &content}}}, false, true},
		"a redirect": {Rules{Redirect: []Redirect{{Path: "/etc/app", Target: "/srv/app"}}}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := makeTree(t, t.TempDir(), map[string]string{"/etc/machine-id": "0"})
			id := func() string {
				b, err := os.ReadFile(filepath.Join(dir, "etc/machine-id"))
				qt.Assert(t, qt.IsNil(err))
				return string(b)
			}
			qt.Assert(t, qt.IsNil(test.rules.Ahead(dir, []string{"/bin/app"})))
			before := id()
			qt.Check(t, qt.Equals(before != "0", test.ahead))
			p, err := test.rules.Plan(clone(crowd))
			qt.Assert(t, qt.IsNil(err))
			p.Done()
			qt.Assert(t, qt.IsNil(p.Apply(t.Context(), dir, nil)))
			qt.Check(t, qt.Equals(id() != before, test.after))
			if test.rules.MachineID != MachineIDKeep {
				qt.Check(t, qt.ErrorMatches(test.rules.Ahead(dir, []string{"/etc/machine-id"}), "machine_id: /etc/machine-id is open.*"))
			}
			for _, path := range []string{"/etc/app.conf", "/etc/app/log"} {
				err := test.rules.Ahead(dir, []string{path})
				qt.Check(t, qt.Equals(err != nil, path == "/etc/app.conf" && name == "a file" || path == "/etc/app/log" && name == "a redirect"))
			}
		})
	}
}
