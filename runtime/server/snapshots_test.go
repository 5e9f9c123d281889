package server

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// damage changes the manifest of a snapshot.
func (w *world) damage(t *testing.T, name string) {
	t.Helper()
	qt.Assert(t, qt.IsNil(os.WriteFile(filepath.Join(string(w.store.Dir(name)), "manifest.json"), []byte("{}"), 0o600)))
}

// opened is how the engine opens snapshots.
func (w *world) opened(ctx context.Context, name string, depth snapshot.Depth) (*source.Source, error) {
	s, err := w.store.Begin(ctx, name, depth)
	if err != nil {
		return nil, err
	}
	return &source.Source{Snapshot: s}, nil
}

func TestSnapshotOfAnApp(t *testing.T) {
	w := begin(t)
	w.add(t, "web", app.Running)
	w.engine.take = func(a *engine.App, req engine.SnapshotRequest) (*snapshot.Manifest, *engine.Outcome, error) {
		if req.Name != "" || !req.Stop {
			return nil, nil, errors.New("not as asked for")
		}
		req.Op.Step("dump")
		return &snapshot.Manifest{Name: "web-1", App: a.Name(), Spec: spec()}, &engine.Outcome{Notes: []app.Note{{Text: "one"}}}, nil
	}
	res, err := w.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "web", Stop: true}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(res.GetSnapshot().GetName(), "web-1")) // which was chosen
	qt.Check(t, qt.Equals(res.GetApp().GetName(), "web"))
	qt.Check(t, qt.HasLen(res.GetNotes(), 1))
	ended := w.events.Recent(event.Filter{Types: []event.Type{event.Ended}})
	qt.Assert(t, qt.HasLen(ended, 1))
	qt.Check(t, qt.Equals(ended[0].Snapshot, "web-1"))

	_, err = w.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "web", AcceptLost: []string{"everything"}}, nil)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrInvalidArgument))
	w.engine.take = func(*engine.App, engine.SnapshotRequest) (*snapshot.Manifest, *engine.Outcome, error) {
		return nil, nil, errdefs.ErrAlreadyExists
	}
	_, err = w.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "web", Name: "s"}, nil)
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
}

// TestListOfSnapshots proves that one snapshot that can't be read does not hide the others.
func TestListOfSnapshots(t *testing.T) {
	w := begin(t)
	all, err := w.ListSnapshots(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(all, 0))
	for _, name := range []string{"c", "a", "b"} {
		w.save(t, name, "web")
	}
	w.damage(t, "b")
	w.obstacles.of = map[string]error{"c": &restore.FileError{Path: "/srv/data", Reason: "it is gone", Remedy: "put it back"}}
	all, err = w.ListSnapshots(t.Context())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(all, 3))
	for i, name := range []string{"a", "b", "c"} {
		qt.Check(t, qt.Equals(all[i].GetName(), name))
	}
	qt.Check(t, qt.Equals(all[0].GetApp(), "web"))
	qt.Check(t, qt.HasLen(all[0].GetWouldNotStart(), 0))
	qt.Assert(t, qt.HasLen(all[1].GetWouldNotStart(), 1))
	qt.Check(t, qt.Equals(all[1].GetWouldNotStart()[0].GetRemedy(), Hint(tree.ErrDamaged)))
	qt.Assert(t, qt.HasLen(all[2].GetWouldNotStart(), 1))
	qt.Check(t, qt.Equals(all[2].GetWouldNotStart()[0].GetPath(), "/srv/data"))
}

func TestRestoreOfASnapshot(t *testing.T) {
	w := begin(t)
	w.save(t, "s", "web")
	w.engine.begin = w.opened
	var asked birth.RestoreRequest
	w.engine.restore = func(req birth.RestoreRequest) (*engine.App, *engine.Outcome, error) {
		asked = req
		if err := w.store.Remove("s"); !errdefs.IsFailedPrecondition(err) {
			return nil, nil, errors.New("it could be removed meanwhile")
		}
		return w.make(t, req.Record), &engine.Outcome{}, nil
	}
	res, err := w.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(res.GetApp().GetName(), "web"))
	qt.Check(t, qt.Equals(res.GetApp().GetEndpoint(), "10.77.0.9"))
	qt.Check(t, qt.Equals(res.GetApp().GetRestoredFrom(), "s"))
	qt.Check(t, qt.Equals(asked.Record.HibernateAfter, time.Minute)) // as it was saved
	qt.Check(t, qt.Equals(asked.Pages, restore.Map))
	// Only a copy of another name may have another address than the saved one, unless that is another host's.
	qt.Check(t, qt.IsFalse(asked.Anywhere))
	qt.Check(t, qt.IsFalse(asked.Asked))

	_, err = w.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "copy", Copy: true, RestoreMemory: api.RestoreMemory_RESTORE_MEMORY_MAPPED}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(asked.Record.Name, "copy"))
	qt.Check(t, qt.IsTrue(asked.Anywhere))
	qt.Check(t, qt.Equals(asked.Pages, restore.Copy))               // now
	qt.Check(t, qt.Equals(asked.Record.RestoreMemory, restore.Map)) // and later

	_, err = w.Restore(t.Context(), &api.RestoreRequest{Snapshot: "s", As: "copy", Endpoint: "10.77.0.8"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(asked.Record.Addr4.String(), "10.77.0.8"))
	qt.Check(t, qt.IsFalse(asked.Anywhere))
	qt.Check(t, qt.IsTrue(asked.Asked))

	// Whoever has the answer may remove the snapshot at once.
	srv := &Server{rooms: Rooms{Snapshots: w.store, Maker: &w.engine, Events: w.events}}
	removed := errors.New("there was no result")
	err = srv.Restore(&api.RestoreRequest{Snapshot: "s"}, &sendResults{ctx: t.Context(), got: func(*api.Result) { removed = w.store.Remove("s") }})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(removed))
}

// sendResults is a stream to a client who acts on the result before the request has ended.
type sendResults struct {
	grpc.ServerStreamingServer[api.Event]
	ctx context.Context //nolint:containedctx // that of the stream
	got func(*api.Result)
}

func (s *sendResults) Context() context.Context { return s.ctx }

func (s *sendResults) Send(e *api.Event) error {
	if r := e.GetResult(); r != nil {
		s.got(r)
	}
	return nil
}

// TestRestoresThatAreRefused proves that they do nothing, and leave the snapshot to others.
func TestRestoresThatAreRefused(t *testing.T) {
	w := begin(t)
	w.save(t, "s", "web")
	w.save(t, "broken", "web")
	w.damage(t, "broken")
	w.engine.begin = w.opened
	w.engine.restore = func(birth.RestoreRequest) (*engine.App, *engine.Outcome, error) {
		return nil, nil, errors.New("no room")
	}
	for _, test := range []struct {
		req  *api.RestoreRequest
		is   error
		text string
	}{
		{&api.RestoreRequest{Snapshot: "none"}, errdefs.ErrNotFound, "snapshot none: not found"},
		{&api.RestoreRequest{Snapshot: ".."}, errdefs.ErrInvalidArgument, ".*"},
		{&api.RestoreRequest{Snapshot: "broken"}, errdefs.ErrDataLoss, "snapshot broken: .*"},
		{&api.RestoreRequest{Snapshot: "s", As: ".."}, errdefs.ErrInvalidArgument, ".*"},
		{&api.RestoreRequest{Snapshot: "s", Endpoint: "home"}, errdefs.ErrInvalidArgument, `.*endpoint "home": want an IPv4 address.*`},
		{&api.RestoreRequest{Snapshot: "s", Wake: &api.WakePolicy{MinBytes: -1}}, errdefs.ErrInvalidArgument, ".*"},
		{&api.RestoreRequest{Snapshot: "s"}, errdefs.ErrUnknown, "no room"},
	} {
		_, err := w.Restore(t.Context(), test.req, nil)
		qt.Check(t, qt.ErrorIs(err, test.is), qt.Commentf("%v", test.req))
		qt.Check(t, qt.ErrorMatches(err, test.text))
	}
	qt.Check(t, qt.IsNil(w.RemoveSnapshot(t.Context(), "s")))
	// A hibernated app's images have no files: the app has them.
	_, err := restoredRecord(&api.RestoreRequest{Snapshot: "s"}, &snapshot.Manifest{App: "web", Spec: spec()})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
}

func TestRemovalOfASnapshot(t *testing.T) {
	w := begin(t)
	w.save(t, "s", "web")
	claim, err := w.store.Claim("s", birth.Restoring)
	qt.Assert(t, qt.IsNil(err))
	err = w.RemoveSnapshot(t.Context(), "s")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	qt.Check(t, qt.ErrorMatches(err, "snapshot s is needed: an app is being restored from it; try again when that is done"))
	claim.Release()
	qt.Check(t, qt.IsNil(w.RemoveSnapshot(t.Context(), "s")))
	err = w.RemoveSnapshot(t.Context(), "s")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	ended := w.events.Recent(event.Filter{Types: []event.Type{event.Ended}, Kinds: []event.Kind{event.RemoveSnapshot}})
	qt.Check(t, qt.HasLen(ended, 3))
}

func TestInspection(t *testing.T) {
	w := begin(t)
	w.save(t, "s", "web")
	w.obstacles.of = map[string]error{"s": errors.New("gone")}
	got, err := w.Inspect(t.Context(), "s")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got.GetSnapshot().GetName(), "s"))
	qt.Check(t, qt.HasLen(got.GetSnapshot().GetWouldNotStart(), 1))
	var info map[string]any
	qt.Assert(t, qt.IsNil(json.Unmarshal(got.GetInfoJson(), &info)))
	for name, list := range info { // of an app without processes
		qt.Check(t, qt.IsNotNil(list), qt.Commentf("%s is null", name))
	}
	var known inspect.Info
	qt.Check(t, qt.IsNil(json.Unmarshal(got.GetInfoJson(), &known)))

	w.add(t, "cache", app.Running)
	_, err = w.Inspect(t.Context(), "nobody")
	qt.Check(t, qt.ErrorMatches(err, "snapshot nobody: not found"))
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrNotFound))
	_, err = w.Inspect(t.Context(), "cache")
	qt.Check(t, qt.ErrorMatches(err, "app cache has no images: it is running"))
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrFailedPrecondition))
	w.damage(t, "s")
	_, err = w.Inspect(t.Context(), "s")
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrDataLoss))
	qt.Check(t, qt.DeepEquals(client.Hints(err), []string{"it can't be used: take it from a backup, or remove it"}))
}

// TestInspectionOfAHeldApp proves that its images are found by its name, unless a snapshot has it.
func TestInspectionOfAHeldApp(t *testing.T) {
	w := begin(t)
	a := w.add(t, "cache", app.Held)
	w.save(t, "elsewhere", "cache")
	qt.Assert(t, qt.IsNil(os.Rename(string(w.store.Dir("elsewhere")), string(a.Hibernation()))))
	w.obstacles.of = map[string]error{"cache": errors.New("of the app"), "elsewhere": errors.New("of a snapshot")}
	got, err := w.Inspect(t.Context(), "cache")
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(got.GetSnapshot().GetWouldNotStart(), 1))
	qt.Check(t, qt.Equals(got.GetSnapshot().GetWouldNotStart()[0].GetReason(), "of the app"))
	w.save(t, "cache", "another")
	got, err = w.Inspect(t.Context(), "cache")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(got.GetSnapshot().GetApp(), "another"))
}

// TestSizesOfASnapshot proves that what a snapshot shares with others is not counted as its own.
func TestSizesOfASnapshot(t *testing.T) {
	s := showSnapshot(&snapshot.Manifest{
		Name: "s", Spec: spec(), Policy: &snapshot.Policy{RestoreMemory: "copied"},
		Content: snapshot.Content{
			Files: []tree.File{
				{Path: "images/pages-1.img", SizeBytes: 1}, {Path: "images/core-1.img", SizeBytes: 2}, {Path: "shm/x", SizeBytes: 4}, {Path: "storage/y", SizeBytes: 8},
			},
			Memory: []snapshot.Memory{
				{Image: "pages-2.img", File: memory.File{SizeBytes: 16}}, {File: memory.File{SizeBytes: 32}}, {Ahead: true, File: memory.File{SizeBytes: 2048}},
			},
			HostFiles: []hostfile.File{{ID: "a", Own: true, SizeBytes: 64}, {ID: "b", SizeBytes: 128}, {SizeBytes: 256}},
			Layers:    []layer.Ref{{Own: true, SizeBytes: 512}, {SizeBytes: 1024}},
		},
	})
	qt.Check(t, qt.Equals(s.GetSizeBytes(), 1+2+4+8+16+64+512+2048))
	qt.Check(t, qt.Equals(s.GetMemoryBytes(), 1+16+2048))
	qt.Check(t, qt.Equals(s.GetMemorySharedBytes(), 32))
	qt.Check(t, qt.Equals(s.GetStorageBytes(), 4+8+512))
	qt.Check(t, qt.Equals(s.GetStorageSharedBytes(), 1024))
	qt.Check(t, qt.Equals(s.GetHostFilesBytes(), 64))
	qt.Check(t, qt.Equals(s.GetHostFilesSharedBytes(), 128))
	qt.Check(t, qt.Equals(s.GetRestoreMemory(), api.RestoreMemory_RESTORE_MEMORY_COPIED))
	older := showSnapshot(&snapshot.Manifest{Name: "s", Spec: spec()})
	qt.Check(t, qt.Equals(older.GetRestoreMemory(), api.RestoreMemory_RESTORE_MEMORY_UNSPECIFIED))
}
