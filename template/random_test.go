package template

import (
	"fmt"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image/inspect"
)

func TestRepeats(t *testing.T) {
	process := func(pid int, files ...string) inspect.Process {
		p := inspect.Process{PID: pid, Comm: fmt.Sprint("p", pid), Memory: &inspect.ProcessMemory{}}
		for _, f := range files {
			p.Memory.Mappings = append(p.Memory.Mappings, inspect.Mapping{Prot: "r-xp", File: f})
		}
		return p
	}
	data := process(9)
	data.Memory.Mappings = []inspect.Mapping{{Prot: "rw-p", File: "/usr/lib/libcrypto.so.3"}}
	for name, test := range map[string]struct {
		processes []inspect.Process
		want      []string
	}{
		"nothing":                  {[]inspect.Process{process(1, "/usr/bin/sleep", "/lib/libc.so.6"), {PID: 2}}, nil},
		"a library":                {[]inspect.Process{process(1, "/usr/sbin/nginx", "/usr/lib/x86_64-linux-gnu/libcrypto.so.3")}, []string{"OpenSSL in process 1 (p1)"}},
		"only its data":            {[]inspect.Process{data}, nil},
		"an older one":             {[]inspect.Process{process(1, "/opt/lib/libcrypto.so.1.1")}, []string{"OpenSSL in process 1 (p1)"}},
		"linked into the program":  {[]inspect.Process{process(1, "/opt/node/bin/node")}, []string{"OpenSSL in process 1 (p1)", "Math.random in process 1 (p1)"}},
		"a version":                {[]inspect.Process{process(1, "/usr/bin/python3.11")}, []string{"Python's module random in process 1 (p1)"}},
		"what begins like it":      {[]inspect.Process{process(1, "/usr/bin/node_exporter"), process(2, "/usr/bin/perldoc")}, nil},
		"several of the processes": {[]inspect.Process{process(1, "/bin/perl"), process(2, "/bin/perl")}, []string{"rand in processes 1 (p1), 2 (p2)"}},
		"many of the processes": {
			[]inspect.Process{process(1, "/bin/perl"), process(2, "/bin/perl"), process(3, "/bin/perl"), process(4, "/bin/perl"), process(5, "/bin/perl")},
			[]string{"rand in processes 1 (p1), 2 (p2), 3 (p3), 2 more"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Assert(t, qt.DeepEquals(Repeats(&inspect.Info{Processes: test.processes}), test.want))
		})
	}
}
