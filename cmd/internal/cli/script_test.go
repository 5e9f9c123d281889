package cli_test

import (
	"cmp"
	"flag"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/snapctl/snapctl/cmd/internal/cli"
	"github.com/snapctl/snapctl/cmd/internal/cli/clitest"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

var update = flag.Bool("update", false, "write what commands print into the scripts")

// TestScripts runs the scripts in testdata, which are documentation too. Each has
// a fake daemon of its own. Besides testscript's own commands there are
//
//	snapctl ARG...        what a user types; with ! it has to fail
//	exits CODE ARG...     the same, and the exit code has to be CODE
//	daemon stop           end the daemon
//	daemon break          let a check of doctor fail
func TestScripts(t *testing.T) {
	run := func(ts *testscript.TestScript, args []string) session.ExitCode {
		return cli.Run(t.Context(), scriptWorld(ts), args)
	}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		UpdateScripts:      *update,
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			socket := filepath.Join(env.WorkDir, "sock")
			env.Setenv(session.SocketVariable, socket)
			f := &clitest.Daemon{}
			stop, err := f.Serve(t.Context(), socket)
			if err != nil {
				return err
			}
			d := &daemon{fake: f, stop: stop}
			env.Values["daemon"] = d
			env.Defer(d.end)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"snapctl": func(ts *testscript.TestScript, neg bool, args []string) {
				if code := run(ts, args); (code != session.OK) != neg {
					ts.Fatalf("exit code %d", code)
				}
			},
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.Atoi(args[0])
				ts.Check(err)
				if code := run(ts, args[1:]); code != session.ExitCode(want) {
					ts.Fatalf("exit code %d, want %d", code, want)
				}
			},
			"daemon": func(ts *testscript.TestScript, _ bool, args []string) {
				d, ok := ts.Value("daemon").(*daemon)
				switch {
				case ok && args[0] == "stop":
					d.end()
				case ok && args[0] == "break":
					d.fake.Checks = append(d.fake.Checks, &api.Check{Name: "criu", Status: output.CheckFailed, Found: "3.17.1", Remedy: "install CRIU 4.2 or newer"})
				default:
					ts.Fatalf("daemon %v", args)
				}
			},
		},
	})
}

type daemon struct {
	fake *clitest.Daemon
	stop func() error
}

func (d *daemon) end() {
	if d.stop != nil {
		_ = d.stop() // what a stopped server returns is of no interest
		d.stop = nil
	}
}

func scriptWorld(ts *testscript.TestScript) session.World {
	return session.World{
		In: strings.NewReader(""), Out: ts.Stdout(), Err: ts.Stderr(), Terminal: &clitest.NoTerminal{},
		Env: func(name string) (string, bool) {
			v := ts.Getenv(name)
			return v, v != ""
		},
		Dir:  func() (string, error) { return cmp.Or(ts.Getenv("DIR"), ts.MkAbs(".")), nil },
		UID:  uid(ts),
		Now:  func() time.Time { return clitest.Began.Add(2 * time.Minute) },
		Dial: client.Dial, Doctor: clitest.Healthy, Build: output.Build{Version: "1.2.3", GoVersion: "go1.26.0"},
	}
}

// uid is who the user is: $AS_USER, or root.
func uid(ts *testscript.TestScript) int {
	n, err := strconv.Atoi(ts.Getenv("AS_USER"))
	if err != nil {
		return 0
	}
	return n
}
