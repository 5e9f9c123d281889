package engine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/vem/netns"
)

// doom is an app to which an operation is done that has come to a point when its daemon is
// killed.
type doom struct {
	name  string // of the app
	table *journal.Table
	step  string
}

// alike tells whether a killed daemon leaves at a point what it leaves at another point of the
// operation, or of an operation that is alike; or whether no app comes to the point here.
func alike(p fault.Name) bool {
	switch p {
	case "run.furnished", "restore.starting", "restore.furnished", "fill-pool.starting",
		"hibernate.collected", "hibernate.adopted", "snapshot.repairing", "snapshot.dumped", "snapshot.adopted",
		"clone.begun", "clone.starting", "clone.furnished", "clone.restored",
		"remove.killed", "remove.forgotten":
		return true
	case "save.repairing": // of an app with connections inside
		return true
	case "wake.dropped": // comes when the wake is over
		return true
	}
	return false
}

// dooms are one app for each point of each operation, but for those that are alike.
func dooms() (list []doom) {
	tables := Operations()
	for i := range tables {
		for _, s := range tables[i].Steps {
			if p := tables[i].Point(s.Name); !alike(p) {
				list = append(list, doom{strings.ReplaceAll(string(p), ".", "-"), &tables[i], s.Name})
			}
		}
	}
	return list
}

// doomed is a daemon that begins an operation on each of many apps, and says on its standard output
// when each has come to its point. It waits there until it is killed.
func doomed() error {
	ctx := context.Background() //nolint:forbidigo // a main function
	b, err := openBench(ctx, os.Args[2])
	if err != nil {
		return err
	}
	if err := b.base(ctx); err != nil {
		return err
	}
	gate, err := (&net.ListenConfig{}).Listen(ctx, "unix", filepath.Join(b.dir, "gate"))
	if err != nil {
		return err
	}
	var g errgroup.Group
	list := dooms()
	failed := make(chan error, len(list))
	for _, d := range list {
		g.Go(func() error {
			op, err := b.prepare(ctx, d)
			if err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
			plan, err := fault.Parse(fmt.Sprintf("%s=pause:%s", d.table.Point(d.step), gate.Addr()))
			if err != nil {
				return err
			}
			go func() { failed <- fmt.Errorf("%s was not stopped: %w", d.name, op(fault.With(ctx, plan))) }()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	stops := make(chan net.Conn, len(list))
	go func() {
		for {
			c, err := gate.Accept()
			if err != nil {
				return
			}
			stops <- c
		}
	}()
	kept := make([]net.Conn, 0, len(list))
	for range list {
		select {
		case c := <-stops:
			kept = append(kept, c) // or it would be closed when nobody has it any more
			if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
				return err
			}
		case err := <-failed:
			return err
		}
	}
	fmt.Println("doomed") //nolint:forbidigo // tells the test
	_, err = kept[0].Read(make([]byte, 1))
	return err
}

// base saves an app as "base". The app goes on, so that the network does.
func (b *bench) base(ctx context.Context) error {
	a, err := b.ready(ctx, "base")
	if err != nil {
		return err
	}
	_, _, err = b.eng.TakeSnapshot(ctx, a, SnapshotRequest{Name: "base", Op: b.operation(event.Snapshot)})
	return err
}

// ready runs an app whose program listens.
func (b *bench) ready(ctx context.Context, name string, args ...string) (*App, error) {
	a, err := b.eng.Run(ctx, record(name, args...))
	if err != nil {
		return nil, err
	}
	return a, await("the program listens", func() bool { return listens(a) })
}

// prepare makes the app of a doom, and returns the operation.
func (b *bench) prepare(ctx context.Context, d doom) (op func(context.Context) error, err error) {
	switch d.table.Name {
	case "run":
		return func(ctx context.Context) error { _, err := b.eng.Run(ctx, record(d.name)); return err }, nil
	case "restore":
		return func(ctx context.Context) error { _, err := b.restore(ctx, "base", d.name); return err }, nil
	case "clone":
		return func(ctx context.Context) error { return b.clone(ctx, "base", d.name) }, nil
	case "fill-pool":
		return func(ctx context.Context) error { _, err := b.fill(ctx, "base", d.name); return err }, nil
	case "hand-out":
		a, err := b.fill(ctx, "base", d.name)
		return func(ctx context.Context) error { return b.handOut(ctx, a, d.name) }, err
	}
	a, err := b.ready(ctx, d.name, "/file")
	if err != nil {
		return nil, err
	}
	sleep := func(ctx context.Context) error {
		_, err := b.eng.Hibernate(ctx, a, Sleep{}, b.operation(event.Hibernate))
		return err
	}
	if d.table.Name == "wake" || d.table.Name == "save" || d.table.Name == "restack" {
		if err := sleep(ctx); err != nil {
			return nil, err
		}
	}
	switch d.table.Name {
	case "hibernate":
		return sleep, nil
	case "wake":
		return func(ctx context.Context) error {
			_, err := b.eng.Wake(ctx, a, Awakening{By: app.ByCommand}, b.operation(event.Wake))
			return err
		}, nil
	case "snapshot", "save", "restack":
		return func(ctx context.Context) error {
			_, _, err := b.eng.TakeSnapshot(ctx, a, SnapshotRequest{Name: d.name, Op: b.operation(event.Snapshot)})
			return err
		}, nil
	case "remove":
		return func(ctx context.Context) error { return b.eng.Remove(ctx, a, true) }, nil
	}
	return nil, fmt.Errorf("nobody knows how to begin %s", d.table.Name)
}

// listens tells whether the program of an app does.
func listens(a *App) bool {
	ns, err := netns.Open(a.Box.NetPath())
	if err != nil {
		return false
	}
	defer ns.Close()
	return ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{127, 0, 0, 1}}), unix.Close(fd))
	}) == nil
}

// patience is how long is waited for what is to come.
const patience = 30 * time.Second

// await asks again until something is so.
func await(what string, is func() bool) error {
	end, tick := time.After(patience), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-end:
			return fmt.Errorf("it never came: %s", what)
		}
	}
	return nil
}
