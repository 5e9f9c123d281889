// Package doctor looks for what of a host stands in snapctl's way, and says what
// to do about it.
//
// The daemon makes the checks for itself; where none answers, the command line
// makes them in its own process, with less to see if its user is not root.
package doctor

import (
	"context"
	"fmt"
	"os"
)

// Status is the result of a check.
type Status string

// The results of a check. A warning is something that works, but not as well as
// it could, or that could not be looked at.
const (
	OK      Status = "ok"
	Warning Status = "warning"
	Failed  Status = "failed"
)

// Check is one thing that snapctl needs, and how it is here.
type Check struct {
	Name   string
	Status Status
	Found  string // for people
	Remedy string // what to do about it; may be empty
}

// Options say what is checked.
type Options struct {
	CRIU     []string // programs to look at; as for criu.Find
	StateDir string   // of the daemon; it need not exist
	Cgroup   string   // cgroup v2 directory in which apps get theirs; found if empty
}

// Run makes all checks. What it makes to see whether that works it removes again.
// As another user than root it sees less, and says so.
func Run(ctx context.Context, opt Options) []Check {
	checks := []struct {
		name  string
		check func(context.Context) finding
	}{
		{"root", checkRoot},
		{"kernel", checkKernel},
		{"criu", opt.checkCRIU},
		{"run-tmpfs", checkRun},
		{"cgroups", opt.checkCgroups},
		{"namespaces", checkNamespaces},
		{"overlay", opt.checkOverlay},
		{"shared-files", opt.checkSharedFiles},
		{"loopback", checkLoopback},
		{"copy-ahead", checkCopyAhead},
		{"open-files", checkOpenFiles},
		{"limits", checkLimits},
		{"nsenter", checkNsenter},
		{"ip-forward", checkForward},
	}
	out := make([]Check, len(checks))
	for i, c := range checks {
		f := c.check(ctx)
		out[i] = Check{Name: c.name, Status: f.status, Found: f.found, Remedy: f.remedy}
	}
	return out
}

// finding is the result of one check.
type finding struct {
	status        Status
	found, remedy string
}

func fine(found string) finding { return finding{status: OK, found: found} }

func warning(found, remedy string) finding { return finding{Warning, found, remedy} }

func failed(found, remedy string) finding { return finding{Failed, found, remedy} }

// isRoot tells whether this process sees everything.
func isRoot() bool { return os.Geteuid() == 0 }

// unseen is what only root could tell.
func unseen(what string) finding {
	return warning(fmt.Sprintf("user %d can't see %s", os.Geteuid(), what), "sudo snapctl doctor")
}
