package snapshot

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/snapshot/terminal"
	"github.com/snapctl/snapctl/snapshot/tree"
)

func manifest() *Manifest {
	return &Manifest{
		Version: ManifestVersion, Name: "s1", App: "cache",
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: "/"}},
	}
}

func TestManifestValidate(t *testing.T) {
	tests := map[string]struct {
		change func(*Manifest)
		err    string // "" is valid
	}{
		"whole":         {func(*Manifest) {}, ""},
		"other version": {func(m *Manifest) { m.Version = 2 }, ".*version 2, this snapctl reads 1"},
		"no spec":       {func(m *Manifest) { m.Spec = nil }, ".*no program in it"},
		"no root":       {func(m *Manifest) { m.Spec.Root = nil }, ".*no program in it"},
		"no arguments":  {func(m *Manifest) { m.Spec.Process.Args = nil }, ".*no program in it"},
		"app name":      {func(m *Manifest) { m.App = "../x" }, `.*app name "../x"`},
		"file":          {func(m *Manifest) { m.Files = []tree.File{{Path: "images/a", Type: "file"}} }, ""},
		"absolute path": {func(m *Manifest) { m.Files = []tree.File{{Path: "/a", Type: "file"}} }, ".*leads out.*"},
		"way out":       {func(m *Manifest) { m.Files = []tree.File{{Path: "a/../../b", Type: "file"}} }, ".*leads out.*"},
		"unclean path":  {func(m *Manifest) { m.Files = []tree.File{{Path: "a//b", Type: "file"}} }, ".*leads out.*"},
		"empty path":    {func(m *Manifest) { m.Files = []tree.File{{Type: "file"}} }, ".*leads out.*"},
		"the manifest":  {func(m *Manifest) { m.Files = []tree.File{{Path: "manifest.json", Type: "file"}} }, ".*leads out.*"},
		"file type":     {func(m *Manifest) { m.Files = []tree.File{{Path: "a", Type: "fifo"}} }, `.*has type "fifo"`},
		"twice": {
			func(m *Manifest) { m.Files = []tree.File{{Path: "a", Type: "file"}, {Path: "a", Type: "dir"}} },
			`.*path "a" twice`,
		},
		"mount":         {func(m *Manifest) { m.External = []External{{Kind: ExternalBind, Path: "/data"}} }, ""},
		"stream":        {func(m *Manifest) { m.External = []External{{Kind: ExternalFIFO, FD: 2}} }, ""},
		"no stream":     {func(m *Manifest) { m.External = []External{{Kind: ExternalConsole, FD: 3}} }, ".*standard stream 3"},
		"console":       {func(m *Manifest) { m.External = []External{TerminalAt(terminal.Control{PID: 1, FD: 9, Console: true})} }, ""},
		"mount path":    {func(m *Manifest) { m.External = []External{{Kind: ExternalBind, Path: "data"}} }, ".*mount path.*"},
		"unclean mount": {func(m *Manifest) { m.External = []External{{Kind: ExternalDev, Path: "/a/../b"}} }, ".*mount path.*"},
		"connections": {
			func(m *Manifest) {
				m.Connections, m.Files = 2, []tree.File{{Path: "connections.bin", Type: "file"}}
			}, "",
		},
		"connections without a file": {func(m *Manifest) { m.Connections = 2 }, ".*2 connections, without a file of them"},
		"external's kind":            {func(m *Manifest) { m.External = []External{{Kind: "moon"}} }, `.*of kind "moon"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := manifest()
			tt.change(m)
			err := m.Validate()
			if tt.err == "" {
				qt.Assert(t, qt.IsNil(err))
				return
			}
			qt.Assert(t, qt.ErrorMatches(err, tt.err))
			qt.Assert(t, qt.ErrorIs(err, ErrInvalid))
		})
	}
}

func FuzzParseManifest(f *testing.F) {
	m := manifest()
	m.Files = []tree.File{{Path: "images/a", Type: "file"}}
	b, err := json.Marshal(m)
	qt.Assert(f, qt.IsNil(err))
	f.Add(b)
	f.Add([]byte(`{"version":1,"files":[{"path":"../x"}]}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, ErrInvalid))
			return
		}
		for _, file := range m.Files {
			qt.Assert(t, qt.IsTrue(filepath.IsLocal(file.Path)))
		}
	})
}

// begin begins a snapshot with one image in it.
func begin(t *testing.T, target string) *Partial {
	t.Helper()
	p, err := Begin(target)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(p.Dir().Images(), "a.img"), []byte("a"), 0o600)))
	return p
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	qt.Assert(t, qt.IsNil(err))
	list := make([]string, len(entries))
	for i, e := range entries {
		list[i] = e.Name()
	}
	return list
}

func TestCommit(t *testing.T) {
	parent := t.TempDir()
	target := filepath.Join(parent, "s1")
	p := begin(t, target)
	dir, err := p.Commit(t.Context(), manifest())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(p.Discard())) // does nothing now
	qt.Assert(t, qt.DeepEquals(names(t, parent), []string{"s1"}))
	for _, depth := range []Depth{ByStamp, ByDigest} {
		m, err := dir.Open(t.Context(), depth, nil)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(m.Files, 2)) // images, images/a.img
	}
	_, err = Begin(target)
	qt.Assert(t, qt.ErrorIs(err, ErrExists))
	qt.Assert(t, qt.IsNil(dir.Remove()))
	qt.Assert(t, qt.IsNil(dir.Remove())) // it is gone
	qt.Assert(t, qt.HasLen(names(t, parent), 0))
}

func TestCommitTakesNoNameAway(t *testing.T) {
	parent := t.TempDir()
	target := filepath.Join(parent, "s1")
	first, second := begin(t, target), begin(t, target)
	_, err := first.Commit(t.Context(), manifest())
	qt.Assert(t, qt.IsNil(err))
	_, err = second.Commit(t.Context(), manifest())
	qt.Assert(t, qt.ErrorIs(err, ErrExists))
	qt.Assert(t, qt.IsNil(second.Discard()))
	qt.Assert(t, qt.IsNil(second.Discard()))
	qt.Assert(t, qt.DeepEquals(names(t, parent), []string{"s1"}))
}

func TestSweep(t *testing.T) {
	parent := t.TempDir()
	begin(t, filepath.Join(parent, "s1"))
	whole := begin(t, filepath.Join(parent, "s2"))
	_, err := whole.Commit(t.Context(), manifest())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(Sweep(parent)))
	qt.Assert(t, qt.DeepEquals(names(t, parent), []string{"s2"}))
	qt.Assert(t, qt.IsNil(Sweep(filepath.Join(parent, "missing"))))
}

// TestRemoveAfterHalfARemove removes a snapshot of whose namesakes a part is left.
func TestRemoveAfterHalfARemove(t *testing.T) {
	parent := t.TempDir()
	var left []string
	for range 2 {
		dir, err := begin(t, filepath.Join(parent, "s1")).Commit(t.Context(), manifest())
		qt.Assert(t, qt.IsNil(err))
		where, err := dir.Drop()
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(filepath.Dir(where), parent))
		_, err = Dir(where).Open(t.Context(), ByDigest, nil)
		qt.Assert(t, qt.IsNil(err)) // all of it is there
		left = append(left, filepath.Base(where))
	}
	qt.Assert(t, qt.ContentEquals(names(t, parent), left))
	dir, err := begin(t, filepath.Join(parent, "s1")).Commit(t.Context(), manifest())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(dir.Remove()))
	qt.Assert(t, qt.HasLen(names(t, parent), 0))

	where, err := dir.Drop() // it is gone
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.RemoveAll(where)))
	for range 2 {
		dir, err = begin(t, filepath.Join(parent, "s1")).Commit(t.Context(), manifest())
		qt.Assert(t, qt.IsNil(err))
		_, err = dir.Drop()
		qt.Assert(t, qt.IsNil(err))
	}
	qt.Assert(t, qt.IsNil(Sweep(parent)))
	qt.Assert(t, qt.HasLen(names(t, parent), 0))
}
