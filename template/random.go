package template

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/snapshot/image/inspect"
)

// A generator makes random numbers of a state that it keeps in its process's memory, and
// that each clone gets. Whether the numbers repeat is measured in testenv/e2e, see
// TEMPLATES.md, "Random numbers".
type generator struct {
	name      string
	libraries []string // the beginnings of their file names
	programs  []string // likewise, but only digits, dots and dashes may follow
}

// generators are those that can be told by the files that a process has mapped. A Go
// program's can't, and those of C libraries every process has.
var generators = []generator{
	// It is seeded anew after a fork, for which it compares process ids (openssl_get_fork_id
	// in crypto/threads_pthread.c): a clone has the id that was saved.
	{name: "OpenSSL", libraries: []string{"libcrypto.so.", "libnode.so."}, programs: []string{"node", "nodejs"}},
	{name: "Python's module random", programs: []string{"python"}, libraries: []string{"libpython"}},
	{name: "Math.random", programs: []string{"node", "nodejs", "java"}, libraries: []string{"libnode.so.", "libjvm.so"}},
	{name: "rand", programs: []string{"perl", "php", "ruby"}, libraries: []string{"libperl.so.", "libphp", "libruby"}},
}

// is tells whether a file has the generator in it.
func (g *generator) is(file string) bool {
	base := path.Base(file)
	for _, name := range g.libraries {
		if strings.HasPrefix(base, name) {
			return true
		}
	}
	for _, name := range g.programs {
		if rest, ok := strings.CutPrefix(base, name); ok && strings.Trim(rest, "0123456789.-") == "" {
			return true
		}
	}
	return false
}

// MayRepeat tells whether a process that has mapped a file of that name as code has a
// generator whose numbers repeat.
func MayRepeat(file string) bool {
	return slices.ContainsFunc(generators, func(g generator) bool { return g.is(file) })
}

// Repeats names the generators of random numbers, each with the processes that have it,
// that go on in all clones of a dump from the same state. There are others: see above.
func Repeats(info *inspect.Info) []string {
	var all []string
	for i := range generators {
		var in []string
		for j := range info.Processes {
			if p := &info.Processes[j]; has(p, &generators[i]) {
				in = append(in, fmt.Sprintf("%d (%s)", p.PID, p.Comm))
			}
		}
		if len(in) == 0 {
			continue
		}
		word := "process "
		if len(in) > 1 {
			word = "processes "
		}
		if more := len(in) - 3; more > 0 {
			in = append(in[:3], fmt.Sprintf("%d more", more))
		}
		all = append(all, generators[i].name+" in "+word+strings.Join(in, ", "))
	}
	return all
}

// has tells whether a process has the code of a generator mapped.
func has(p *inspect.Process, g *generator) bool {
	return p.Memory != nil && slices.ContainsFunc(p.Memory.Mappings, func(m inspect.Mapping) bool {
		return m.File != "" && strings.Contains(m.Prot, "x") && g.is(m.File)
	})
}
