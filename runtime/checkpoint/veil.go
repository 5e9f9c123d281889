package checkpoint

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"

	"github.com/snapctl/snapctl/runtime/checkpoint/veil"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu/apart"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// DefaultHideFrom is a number of connections of which CRIU saves some 10 ms: with fewer it is not worth
// while to have it do anything but what everybody has it do.
const DefaultHideFrom = 200

// start starts CRIU, in the app's network namespace, and apart from the mounts of the host if the app
// may have connections to hide, or memory that was copied already.
//
// Were it an external namespace to CRIU, it would all the same look for its connection tracking
// entries, twice through a table that all namespaces of the host share, while the app stands
// still (net.c, dump_nf_ct): 10 to 25 ms for 262144 buckets.
func (o *taking) start(cmd *exec.Cmd) error {
	pids, err := o.s.cgroup().PIDs()
	if err == nil && !o.o.Plain {
		o.many, err = veil.Many(pids, o.t.HideFrom)
	}
	if err != nil {
		return err
	}
	if !o.many && o.early == nil {
		return o.s.Box.StartBeside(o.ns, cmd, nil)
	}
	if o.many {
		cmd.Env = append(cmd.Environ(), veil.Env)
	}
	var failed error
	move := func() error {
		failed = apart.Move()
		return nil
	}
	if err := o.s.Box.StartBeside(o.ns, cmd, move); err != nil {
		return err
	}
	if failed == nil {
		o.criu = cmd.Process.Pid
	} else { // no reason not to save the app
		o.seesAll(failed)
	}
	return nil
}

// seesAll tells why CRIU sees what was to be hidden from it.
func (o *taking) seesAll(err error) {
	o.t.Log.Warn("CRIU saves all connections or all memory, which takes longer", slog.String("app", o.s.Name), slog.Any("error", err))
}

// hideHeld hides the connections of an app whose sockets are held. The context that it returns is for
// those who look at other descriptors only: see proc.Among.
func (o *taking) hideHeld(ctx context.Context, pids []int, set *hold.Set) (context.Context, error) {
	if o.criu == 0 || !o.many {
		return ctx, nil
	}
	others, err := veil.Besides(pids, set)
	if err != nil {
		return ctx, err
	}
	return o.hide(ctx, pids, set, others)
}

// hideConnections does the same for an app that goes on, of which nothing is held.
func (o *taking) hideConnections(ctx context.Context, pids []int) (context.Context, error) {
	if o.criu == 0 || !o.many {
		return ctx, nil
	}
	set, others, err := collect.Connections(ctx, pids)
	if err != nil {
		return ctx, err
	}
	return o.hide(ctx, pids, set, others)
}

// hide hides the connections of the frozen processes from CRIU, if they are many. set has them, others
// are the other descriptors of each process.
func (o *taking) hide(ctx context.Context, pids []int, set *hold.Set, others map[int][]int) (context.Context, error) {
	ctx = proc.Among(ctx, others)
	if len(set.Sockets) < o.t.HideFrom {
		return ctx, nil
	}
	v, err := veil.Find(ctx, pids, set)
	if err != nil {
		return ctx, err
	}
	if why := v.Why(); why != nil {
		o.seesAll(why)
	}
	if v.Len() < o.t.HideFrom {
		return ctx, nil
	}
	if o.veilDir, err = os.MkdirTemp(o.Work, ".partial-veil-"); err != nil {
		return ctx, err
	}
	if err := v.Hide(o.criu, o.veilDir); err != nil {
		o.seesAll(err)
		return ctx, nil
	}
	o.veil = v
	return ctx, nil
}

// complete adds to the images what was hidden from CRIU.
func (o *taking) complete(to snapshot.Dir) error {
	if err := o.veil.Complete(to.Images()); err != nil {
		return fmt.Errorf("%w: %w", errHidden, err)
	}
	return nil
}
