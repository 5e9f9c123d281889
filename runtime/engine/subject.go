package engine

import (
	"context"
	"slices"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/process"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/fabric"
)

// Tools save and revive apps: the methods of [checkpoint.Tools] that an engine uses.
type Tools interface {
	Hibernate(ctx context.Context, s *checkpoint.Subject, o checkpoint.Saving) (*checkpoint.Taken, error)
	Copy(ctx context.Context, s *checkpoint.Subject, o checkpoint.Saving) (*checkpoint.Taken, error)
	Revive(ctx context.Context, s *checkpoint.Subject, r checkpoint.Revival) (*process.Process, error)
	Narrow(ctx context.Context, s *checkpoint.Subject) error
	Reset(ctx context.Context, from snapshot.Dir, external []snapshot.External, held map[uint64]bool, lost string) []checkpoint.Outcome
	Restored(ctx context.Context, from snapshot.Dir, m *snapshot.Manifest) []checkpoint.Outcome
}

// Subject is the app as it is now, to package checkpoint, with protections that it may lose
// besides those of its record. What is held stays so for as long as the caller has the app's
// turn.
func (a *App) Subject(accept ...preflight.Protection) *checkpoint.Subject {
	rec, _ := a.Read()
	return &checkpoint.Subject{
		Name: rec.Name, Box: a.Box, PID: rec.Process.PID, Standard: fabric.Standard(rec.Inside()), Held: a.Endpoint.Held(), Layers: rec.Layers,
		Memory: rec.Memory, HostFiles: rec.HostFiles, Sessions: a.sessions.Now(), Accept: slices.Concat(rec.AcceptLost, accept),
		AcceptChanged: rec.AcceptChanged, Note: a.Remark, Failed: a.Note,
	}
}

// manifest is what the record knows of an app that is saved.
func (eng *Engine) manifest(rec *app.Record) snapshot.Manifest {
	m := snapshot.Manifest{
		Name: rec.Name, App: rec.Name, CreatedAt: time.Now(), Spec: rec.Spec, Origin: eng.origin, Policy: rec.SavedPolicy(),
		Address: snapshot.Address{Network: rec.Network}, Content: snapshot.Content{Layers: rec.Layers},
	}
	four, six := rec.Inside()
	m.Endpoint = four.String()
	if six.IsValid() {
		m.Endpoint6 = six.String()
	}
	return m
}
