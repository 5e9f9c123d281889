package template

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

// What CheckInstance says is what Write does.
func TestCheckInstance(t *testing.T) {
	for name, one := range map[string]struct {
		make func(root string) error
		open []string
		want string // "": it can be written
	}{
		"nothing there":       {},
		"a file":              {make: func(root string) error { return os.WriteFile(root+"/run/snapctl/instance.json", nil, 0o600) }},
		"a directory":         {make: func(root string) error { return os.Mkdir(root+"/run/snapctl/instance.json", 0o700) }, want: "instance.json is something else: remove it"},
		"a file above":        {make: func(root string) error { return os.WriteFile(root+"/run/snapctl/x", nil, 0o600) }},
		"a link to nowhere":   {make: func(root string) error { return os.Symlink("/srv/x", root+"/run/snapctl/instance.json") }},
		"a link out of it":    {make: func(root string) error { return os.Symlink("/proc/x", root+"/run/snapctl/instance.json") }, want: "is not part of the app's files"},
		"a file as directory": {make: func(root string) error { return os.WriteFile(root+"/etc", nil, 0o600) }},
		"run is a file": {
			make: func(root string) error {
				return rerun(root, func() error { return os.WriteFile(root+"/run", nil, 0o600) })
			}, want: "can't be written",
		},
		"run leads elsewhere": {make: func(root string) error {
			return rerun(root, func() error { return os.Symlink("var", root+"/run") })
		}},
		"open":             {open: []string{"/x", InstancePath}, want: "a process has it open"},
		"open, by a link":  {make: func(root string) error { return os.Symlink("there", root+"/run/snapctl/instance.json") }, open: []string{"/run/snapctl/there"}, want: "a process has it open"},
		"another one open": {open: []string{"/srv/instance.json"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(root, "run/snapctl"), 0o755)))
			if one.make != nil {
				qt.Assert(t, qt.IsNil(one.make(root)))
			}
			err := CheckInstance(root, one.open)
			if one.want == "" {
				qt.Assert(t, qt.IsNil(err))
			} else {
				qt.Assert(t, qt.ErrorMatches(err, "(?s).*"+one.want+".*"))
			}
			if one.open == nil {
				qt.Check(t, qt.Equals((InstanceFile{}).Write(root) == nil, one.want == ""))
			}
		})
	}
}

// rerun replaces /run.
func rerun(root string, make func() error) error {
	if err := os.RemoveAll(root + "/run"); err != nil {
		return err
	}
	return make()
}
