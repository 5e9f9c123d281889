package birth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/directory"
)

var restoreTable = journal.Table{
	Name: "restore", Doing: string(app.Restoring), From: []string{""},
	Steps: []journal.Step{
		{Name: "begun", Means: "the new app is recorded", Keep: journal.UntilReboot},
		{Name: "starting", Means: "the view of the images is made, CRIU is not started"},
		{Name: "furnished", Means: "mounts, cgroup and namespaces are made"},
		{Name: "restored", Means: "the processes run, the app has no traffic yet if commands of rules are to be run first", Then: "settle in"},
		{Name: "recorded", Means: "the app is recorded as running", Keep: journal.Forever, Ends: string(app.Running), Commits: true},
	},
}

// cloneTable is that of a clone which is made at once.
var cloneTable = journal.Table{
	Name: "clone", Doing: string(app.Restoring), From: []string{""}, Part: true,
	Steps: restoreTable.Steps,
}

// RestoreRequest says what Restore makes.
type RestoreRequest struct {
	Source *source.Source
	Record app.Record // but for its generation
	// Anywhere says that the app gets another address if the record's is in use, or another host's to give.
	Anywhere bool
	// Asked says that the record's address was asked for: it gets that one or none. Else it gets another one if
	// that is another host's to give.
	Asked bool
	Pages restore.Pages
	Op    *event.Operation
}

// Restore makes a new app from a snapshot. Its connections to others are
// reset, for these belong to the app that it was taken of. If it fails nothing is
// left of it.
func (m *Maker) Restore(ctx context.Context, req RestoreRequest) (_ *engine.App, _ *engine.Outcome, err error) {
	s := req.Source
	born := Birth{Source: s, Pages: req.Pages}
	req.Record.Generation = template.NewGeneration()
	r, release, err := m.Enroll(ctx, req.Record, &born, req.Op)
	why := unusable(err)
	if why != "" && (req.Anywhere || !req.Asked && isOthers(err)) {
		req.Record.Addr4 = netip.Addr{}
		r, release, err = m.Enroll(ctx, req.Record, &born, req.Op)
	}
	if err != nil {
		return nil, nil, err
	}
	defer release()
	a := r.Subject
	if why != "" {
		rec, _ := a.Read()
		inside, _ := rec.Inside()
		a.Remark(
			fmt.Sprintf("%s is at %s for others, and at %s, which it was saved with, for itself: %s", rec.Name, rec.Addr4, inside, why),
			"--endpoint chooses an address",
		)
	}
	err = r.Do(ctx, func(ctx context.Context) (err error) {
		if born.Plan, err = sameAgain().Plan(Instance(a, 1, 0, nil)); err != nil {
			return err
		}
		return m.Instantiate(ctx, r, born)
	})
	if err != nil {
		return nil, nil, err
	}
	req.Op.EndStep()
	out := &engine.Outcome{Notes: a.Remarked()}
	if s.Manifest.Processes > 0 {
		out.Sockets = m.engine.Tools.Restored(ctx, s.Dir, s.Manifest)
	}
	return a, out, nil
}

// sameAgain are the rules of an app that is restored and not cloned.
func sameAgain() *template.Rules { return &template.Rules{MachineID: template.MachineIDKeep} }

// isOthers tells whether an address is another host's to give.
func isOthers(err error) bool {
	_, block := errors.AsType[*directory.BlockError](err)
	return block
}

// unusable says why an app can't have the address that it asked for, though it could have another one;
// "" if an error is about something else.
func unusable(err error) string {
	if taken, ok := errors.AsType[*vem.TakenError](err); ok {
		return fmt.Sprintf("app %s has that endpoint", taken.App)
	}
	if block, ok := errors.AsType[*directory.BlockError](err); ok {
		return fmt.Sprintf("that is one of the addresses that host %s gives out", block.Block.Host)
	}
	return ""
}
