package enginetest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-quicktest/qt"
	"golang.org/x/sync/errgroup"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
)

// Doom is an operation on an app that has come to a point when its daemon is killed.
type Doom struct {
	App   string
	Table *journal.Table
	Step  string
}

// Dooms are one for each point of some operations, but for points that need none.
func Dooms(tables []journal.Table, but ...fault.Name) (list []Doom) {
	for i := range tables {
		for _, s := range tables[i].Steps {
			if p := tables[i].Point(s.Name); !slices.Contains(but, p) {
				list = append(list, Doom{strings.ReplaceAll(string(p), ".", "-"), &tables[i], s.Name})
			}
		}
	}
	return list
}

// Begin makes the app of a doom, if it has to be there before, and returns the operation.
type Begin func(ctx context.Context, d Doom) (op func(context.Context) error, err error)

// DoomedRole is a role of the test binary that [World.OpenAfterKill] starts. It calls [Doomed].
const DoomedRole = "doomed"

// Doomed is a daemon that begins an operation on each of many apps, and says on its standard output
// when each has come to its point. It waits there until it is killed. There is a snapshot "base".
func Doomed(list []Doom, on func(*Bench) Begin) error {
	ctx := context.Background() //nolint:forbidigo // a main function
	b, err := OpenBench(ctx, os.Args[2])
	if err != nil {
		return err
	}
	begin := on(b)
	if err := b.Base(ctx); err != nil {
		return err
	}
	gate, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(b.Dir, "gate"))
	if err != nil {
		return err
	}
	var g errgroup.Group
	failed := make(chan error, len(list))
	for _, d := range list {
		g.Go(func() error {
			op, err := begin(ctx, d)
			if err != nil {
				return fmt.Errorf("%s: %w", d.App, err)
			}
			plan, err := fault.Parse(fmt.Sprintf("%s=pause:%s", d.Table.Point(d.Step), gate.Addr()))
			if err != nil {
				return err
			}
			go func() { failed <- fmt.Errorf("%s was not stopped: %w", d.App, op(fault.With(ctx, plan))) }()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	kept, err := awaitAll(gate, len(list), failed)
	if err != nil {
		return err
	}
	fmt.Println(DoomedRole) //nolint:forbidigo // tells the test
	_, err = kept[0].Read(make([]byte, 1))
	return err
}

// awaitAll waits until n operations have come to their points. Each tells it on a connection to gate,
// and waits for as long as the connection is open.
func awaitAll(gate net.Listener, n int, failed <-chan error) (kept []net.Conn, err error) {
	stops := make(chan net.Conn, n)
	go func() {
		for {
			c, err := gate.Accept()
			if err != nil {
				return
			}
			stops <- c
		}
	}()
	for range n {
		select {
		case c := <-stops:
			kept = append(kept, c) // or it would be closed when nobody has it any more
			if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
				return nil, err
			}
		case err := <-failed:
			return nil, err
		}
	}
	return kept, nil
}

// OpenAfterKill starts a daemon that is [Doomed] in the directory of the world, kills it when it has
// come to all points, and opens the bench.
func (w *World) OpenAfterKill() {
	t := w.T
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", DoomedRole, w.Dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(cmd.Start()))
	said, err := bufio.NewReader(out).ReadString('\n')
	kerr := cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	w.Open()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(kerr))
	qt.Assert(t, qt.Equals(said, DoomedRole+"\n"))
}

// Is proves that an app is as its status says, or gone if the status is empty.
func (w *World) Is(name string, status app.Status) {
	w.T.Helper()
	switch status { //nolint:exhaustive // no test has others
	case "":
		w.IsGone(name)
		w.IsGone("_pool-" + name)
	case app.Running:
		w.IsRunning(w.App(name))
	case app.Held:
		w.IsHeld(w.App(name))
	}
}
