// Package fault holds the named points at which tests make snapctl die, fail
// or wait, to prove that every step can be finished or undone afterwards.
//
// A point is a call of [Point] between two steps. It does nothing, for the
// price of an atomic load and a look into the context, unless a plan says
// otherwise:
//
//	SNAPCTL_FAULT=hibernate.dumped=kill,wake.resuming=error
//
//	NAME=kill         the process kills itself by SIGKILL
//	NAME=error        Point returns an error wrapping [ErrInjected]
//	NAME=pause:PATH   Point connects to the unix socket PATH, writes its name and
//	                  a newline, and goes on when the other side writes a line
//	                  (then "error" and "kill" do the same as above) or closes
//
// The variable is read once, by the process itself: an app never sees it. The
// package testenv/gate makes such plans.
package fault

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Env is the environment variable that holds the process's plan.
const Env = "SNAPCTL_FAULT"

// ErrInjected is the failure that a plan asked for.
var ErrInjected = errors.New("injected fault")

// Action is what happens at a point.
type Action string

// The actions. The text of a pause goes on with a colon and a path.
const (
	Kill  Action = "kill"
	Error Action = "error"
	Pause Action = "pause"
)

// step is what a plan has for one point.
type step struct {
	action Action
	path   string // of a pause
}

// Plan says what happens at which point. The zero value has nothing happen.
// A Plan does not change.
type Plan struct {
	steps map[Name]step
}

// Parse reads a plan in the form of the environment variable.
func Parse(text string) (Plan, error) {
	p := Plan{}
	if text == "" {
		return p, nil
	}
	p.steps = make(map[Name]step)
	for item := range strings.SplitSeq(text, ",") {
		name, what, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok {
			return Plan{}, fmt.Errorf("parse fault %q: want NAME=ACTION", item)
		}
		action, path, _ := strings.Cut(what, ":")
		s := step{action: Action(action), path: path}
		switch s.action {
		case Kill, Error:
			ok = path == ""
		case Pause:
			ok = path != ""
		default:
			ok = false
		}
		if !ok {
			return Plan{}, fmt.Errorf("parse fault %q: want kill, error or pause:PATH", item)
		}
		p.steps[Name(name)] = s
	}
	return p, nil
}

// fromEnv is the process's own plan, read at the first point.
var fromEnv = sync.OnceValues(func() (Plan, error) { return Parse(os.Getenv(Env)) })

type key struct{}

// With returns a context whose points follow plan instead of the environment.
func With(ctx context.Context, plan Plan) context.Context {
	return context.WithValue(ctx, key{}, plan)
}

// Check tells what is wrong with the process's own plan; points are all that there are. A
// daemon calls it when it starts.
func Check(points []Name) error {
	plan, err := fromEnv()
	if err != nil {
		return err
	}
	for name := range plan.steps {
		if !slices.Contains(points, name) {
			return fmt.Errorf("parse fault %q: no point has this name", name)
		}
	}
	return nil
}

// Point is a place where a plan may make things go wrong. It returns nil, an
// error wrapping ErrInjected, or that of ctx when it ends during a pause.
func Point(ctx context.Context, name Name) error {
	plan, err := fromEnv()
	if p, ok := ctx.Value(key{}).(Plan); ok {
		plan, err = p, nil
	}
	if err != nil {
		return err
	}
	s, ok := plan.steps[name]
	if !ok {
		return nil
	}
	action := s.action
	if action == Pause {
		action, err = pause(ctx, name, s.path)
		if err != nil {
			return fmt.Errorf("pause at %s: %w", name, err)
		}
	}
	switch action {
	case Kill:
		if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
			return fmt.Errorf("kill at %s: %w", name, err)
		}
		select {} // the signal is on its way
	case Error:
		return fmt.Errorf("at %s: %w", name, ErrInjected)
	case Pause:
	}
	return nil
}

// pause waits for the other side of the socket and returns what it wants, or
// Pause for nothing more.
func pause(ctx context.Context, name Name, path string) (Action, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return "", err
	}
	defer conn.Close()                                          //nolint:errcheck // the pause is over
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the read below
	defer stop()
	if _, err := fmt.Fprintln(conn, name); err != nil {
		return "", err
	}
	// The other side may just close, or have died: either way we go on.
	line, _ := bufio.NewReader(conn).ReadString('\n')
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if want := Action(strings.TrimSpace(line)); want == Kill || want == Error {
		return want, nil
	}
	return Pause, nil
}
