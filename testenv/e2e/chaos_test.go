package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
)

// TestChaos hibernates real programs, lets ordinary things happen around them while they
// sleep, and talks to them: each must be woken, and know what it knew. Which program,
// what happens, and what wakes it are drawn; `make soak SEED=7` repeats a run.
//
// Every program has open files on a directory of the host, one of them locked, and runs
// from copies of its own file and of the C library, which are upgraded as a package
// manager does it. Its client stays connected throughout, and each answer is the number
// of the question: a lost or repeated one shows.
func TestChaos(t *testing.T) {
	t.Setenv("SNAPCTL_CRIU", criuForOtherUsers(t)) // postgres refuses to run as root
	w := New(t)
	draw := seeded(t)
	var all []*chaosApp
	for _, p := range chaosPrograms() {
		all = append(all, w.chaosApp(p))
	}
	for _, c := range all {
		c.connect()
		c.ask()
	}
	for round := range rounds(t, 30) {
		c := all[draw.IntN(len(all))]
		var events []chaosEvent
		for range 1 + draw.IntN(3) {
			events = append(events, chaosEvents[draw.IntN(len(chaosEvents))])
		}
		byCommand := draw.IntN(3) == 0
		t.Logf("round %d: %s: %s", round, c.program.name, describe(events, byCommand))
		w.Hibernate(c.program.name)
		for _, e := range events {
			e.happen(c, draw)
		}
		if byCommand {
			w.Wake(c.program.name)
		}
		c.ask() // which wakes it otherwise
		w.Running(c.program.name)
		c.ask()
		if t.Failed() {
			return
		}
	}
	for _, c := range all {
		c.ask()
	}
}

func describe(events []chaosEvent, byCommand bool) string {
	var names []string
	for _, e := range events {
		names = append(names, e.name)
	}
	if byCommand {
		return strings.Join(names, ", ") + ", woken by command"
	}
	return strings.Join(names, ", ")
}

// chaosApp is a program that runs, and its client.
type chaosApp struct {
	*World
	program  chaosProgram
	endpoint string
	bind     string // a directory of the host that it has files of open
	lower    string // a directory of its root with copies of its programs
	client   chaosClient
	asked    int
}

// wrapper opens files of the bound directory in the ways in which programs do, and
// becomes the program, which keeps them.
const wrapper = `exec 6<"$BIND/data" 7>>"$BIND/log" 8<>"$BIND/data" 9>"$BIND/lock"
flock -n 9 || exit 1
exec "$@"`

// chaosApp runs a program.
func (w *World) chaosApp(p chaosProgram) *chaosApp {
	w.t.Helper()
	for _, name := range p.needs {
		testenv.Need(w.t, testenv.Program(name))
	}
	dir, err := os.MkdirTemp(testenv.BaseDir(), "chaos-")
	qt.Assert(w.t, qt.IsNil(err))
	w.t.Cleanup(func() { qt.Check(w.t, qt.IsNil(os.RemoveAll(dir))) })
	c := &chaosApp{World: w, program: p, bind: filepath.Join(dir, "bind"), lower: filepath.Join(dir, "lower")}
	for _, d := range []string{dir, c.bind, c.lower, filepath.Join(c.lower, "lib")} {
		qt.Assert(w.t, qt.IsNil(os.MkdirAll(d, 0o755)))
		qt.Assert(w.t, qt.IsNil(os.Chmod(d, 0o777))) // also for programs of other users
	}
	for _, library := range []string{"libc.so.6", "libm.so.6"} {
		w.runs("cp", "-L", "/lib/x86_64-linux-gnu/"+library, filepath.Join(c.lower, "lib"))
	}
	program := p.program
	if program == "survivor" {
		program, err = w.Install(w.t.Context(), program)
		qt.Assert(w.t, qt.IsNil(err))
	}
	if program != "" {
		w.runs("sh", "-c", `cp -L "$(command -v "$0")" "$1"`, program, c.programPath())
	}
	for _, name := range []string{"data", "log", "lock"} {
		path := filepath.Join(c.bind, name)
		qt.Assert(w.t, qt.IsNil(os.WriteFile(path, make([]byte, 4096), 0o666)))
		qt.Assert(w.t, qt.IsNil(os.Chmod(path, 0o666)))
	}
	args := p.args
	if program != "" && args[0] != "sh" {
		args = append([]string{c.programPath()}, args...)
	}
	a := w.Run(&api.RunRequest{
		Name: p.name, User: p.user, Binds: []*api.Bind{{Source: c.bind, Destination: c.bind}},
		Env:  append([]string{"PATH=" + postgresBin + ":" + os.Getenv("PATH"), "LC_ALL=C", "BIND=" + c.bind, "PROGRAM=" + c.programPath(), "LD_LIBRARY_PATH=" + filepath.Join(c.lower, "lib")}, p.env...),
		Args: append([]string{"sh", "-c", wrapper, "sh"}, args...),
	})
	c.endpoint = a.GetEndpoint()
	return c
}

// programPath is the copy of its program.
func (c *chaosApp) programPath() string { return filepath.Join(c.lower, c.program.name) }

// askTime bounds a question: a wake, and what else the machine does.
const askTime = time.Minute

// connect connects the client, as soon as the program listens.
func (c *chaosApp) connect() {
	c.t.Helper()
	var err error
	if c.client, err = c.program.connect(c); err != nil {
		c.t.Fatalf("%s: connect: %v", c.program.name, err)
	}
}

// ask asks the next question. The program answers with its number.
func (c *chaosApp) ask() {
	c.t.Helper()
	c.asked++
	qt.Assert(c.t, qt.IsNil(c.client.deadline(time.Now().Add(askTime))))
	got, err := c.client.ask(c.asked)
	if err == nil && got != fmt.Sprint(c.asked) {
		err = fmt.Errorf("answer %q", got)
	}
	if err != nil {
		a := c.Show(c.program.name)
		log, _ := os.ReadFile(c.Outside(filepath.Join(c.StateDir(), "apps", c.program.name, "log")))
		c.t.Fatalf("%s: question %d: %v\nit is %s: %s\n%s", c.program.name, c.asked, err, a.GetStatus(), a.GetError(), log)
	}
}

// chaosEvent is something that happens around a sleeping app.
type chaosEvent struct {
	name   string
	happen func(c *chaosApp, draw *rand.Rand)
}

// run runs a shell script on the host, with the app's directories as BIND and LOWER, and
// its program as PROGRAM.
func (c *chaosApp) run(script string) {
	c.t.Helper()
	cmd := c.Command(c.t.Context(), "sh", "-ec", script)
	cmd.Env = append(cmd.Env, "BIND="+c.bind, "LOWER="+c.lower, "PROGRAM="+c.programPath())
	r, err := host.Run(cmd)
	qt.Assert(c.t, qt.IsNil(err))
	qt.Assert(c.t, qt.Equals(r.Code, 0), qt.Commentf("%s: %s%s", script, r.Stdout, r.Stderr))
}
