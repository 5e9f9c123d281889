// Package snapctl holds tests of the whole module: which folder and which
// package may import which, how large a file, a package and a struct may be,
// and that every package says what it is for.
package snapctl

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/snapctl/snapctl"

// allowed maps each top-level folder to what it may import besides itself: a
// folder, or a package, with all that is below it.
//
// Folders are listed from the top down: no line names one above it. Nobody
// names testenv, which is for tests; it drives snapctl from outside, so it
// stands on the client side and on the namespaces only, and on the directory,
// of which it makes clusters and simulates the hosts.
var allowed = map[string][]string{
	"cmd":      {"runtime", "template", "restore", "snapshot", "vem"},
	"runtime":  {"template", "restore", "snapshot", "vem"},
	"template": {"restore", "snapshot"},
	"restore":  {"snapshot"},
	"snapshot": {},
	"vem":      {},
	"testenv":  {"runtime/api", "runtime/client", "runtime/fault", "vem/address", "vem/directory", "vem/netlist", "vem/netns"},
}

// eachFile parses every Go file that is compiled into a binary.
func eachFile(t *testing.T, fn func(dir string, imports []string, doc bool)) {
	t.Helper()
	eachSource(t, func(name string) error {
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		var imports []string
		for _, spec := range f.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, p)
		}
		fn(path.Dir(name), imports, f.Doc != nil)
		return nil
	})
}

// eachSource calls fn with the name of every Go file of the module.
//
// The files are read by the tests rather than by go list, since go test only
// notices changes to files which the test itself opened.
func eachSource(t *testing.T, fn func(name string) error) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && name != "."):
			return filepath.SkipDir
		case d.IsDir(), filepath.Ext(name) != ".go":
			return nil
		}
		return fn(filepath.ToSlash(name))
	})
	if err != nil {
		t.Fatal("Can't read the module:", err)
	}
}

// mayImport tells whether a package of the folder from may import the package
// to, both relative to the module.
func mayImport(from, to string) bool {
	return slices.ContainsFunc(append([]string{from}, allowed[from]...), func(dir string) bool {
		return to == dir || strings.HasPrefix(to, dir+"/")
	})
}

func TestImportDirections(t *testing.T) {
	eachFile(t, func(dir string, imports []string, _ bool) {
		from, _, _ := strings.Cut(dir, "/")
		if _, ok := allowed[from]; !ok {
			t.Errorf("%s: unknown top-level folder %q", dir, from)
			return
		}
		for _, imp := range imports {
			if to, ours := strings.CutPrefix(imp, module+"/"); ours && !mayImport(from, to) {
				t.Errorf("%s must not import %s", dir, imp)
			}
		}
	})
}

// A direction that is stated both ways would be no direction.
func TestDirectionsPointDown(t *testing.T) {
	for from, below := range allowed {
		for _, to := range below {
			folder, _, _ := strings.Cut(to, "/")
			if mayImport(folder, from) {
				t.Errorf("%s may import %s, and the other way round", from, to)
			}
		}
	}
}

func TestPackageDocs(t *testing.T) {
	docs := make(map[string]int)
	eachFile(t, func(dir string, _ []string, doc bool) {
		if doc {
			docs[dir]++
		} else {
			docs[dir] += 0
		}
	})
	for dir, n := range docs {
		if n != 1 {
			t.Errorf("%s: want one package comment, got %d", dir, n)
		}
	}
}
