package snapctl

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// What is larger than this is two things, and is to be divided. Generated code
// is not counted, and in a package neither are its tests.
const (
	maxFields       = 15
	maxFileLines    = 400
	maxPackageLines = 2500
)

// Exceptions are upper bounds. No exception is added and no bound is raised. An
// exception that is no longer needed fails the test until it is taken out.
var (
	largeStructs  = map[string]int{}
	largeFiles    = map[string]int{}
	largePackages = map[string]int{}
)

// sizes are numbers by the name of what has them.
type sizes map[string]int

// measure counts the fields of each struct, and the lines of each file and of
// each package.
func measure(t *testing.T) (structs, files, packages sizes) {
	t.Helper()
	structs, files, packages = make(sizes), make(sizes), make(sizes)
	eachSource(t, func(name string) error {
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if ast.IsGenerated(f) {
			return nil
		}
		dir, lines := path.Dir(name), bytes.Count(src, []byte("\n"))
		files[name] = lines
		if strings.HasSuffix(name, "_test.go") {
			return nil
		}
		packages[dir] += lines
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					structs[dir+"."+spec.Name.Name] = s.Fields.NumFields()
				}
			}
			return true
		})
		return nil
	})
	return structs, files, packages
}

// check compares numbers with the limit that all obey, and with the exceptions.
func (s sizes) check(t *testing.T, limit int, exceptions map[string]int, unit, list string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if bound := max(limit, exceptions[name]); s[name] > bound {
			t.Errorf("%s has %d %s, and may have %d: divide it into what it consists of.", name, s[name], unit, bound)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exceptions)) {
		if s[name] <= limit {
			t.Errorf("%s needs no exception any more: take it out of %s (size_test.go).", name, list)
		}
	}
}

func TestSizes(t *testing.T) {
	structs, files, packages := measure(t)
	structs.check(t, maxFields, largeStructs, "fields", "largeStructs")
	files.check(t, maxFileLines, largeFiles, "lines", "largeFiles")
	packages.check(t, maxPackageLines, largePackages, "lines", "largePackages")
}
