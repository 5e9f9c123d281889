package checkpoint

import (
	"context"
	"fmt"
	"maps"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot"
)

// Rehearse tells whether the images of an app could be restored where the app is now.
func (t *Tools) Rehearse(ctx context.Context, s *Subject, from snapshot.Dir, m *snapshot.Manifest) error {
	binds := s.Box.ViewSources()
	maps.Copy(binds, bindsOf(s.Box.Spec))
	return restore.Rehearse(ctx, restore.Options{
		Snapshot: from, Manifest: m, HostFiles: t.HostFiles, AcceptChanged: s.AcceptChanged,
		Place: restore.Place{Root: s.Box.Root(), Lower: s.Box.Spec.Root.Path, Dev: s.Box.Dev(), Binds: binds, View: s.work()},
	})
}

// rehearseSaved does so for an app that has just been saved and is to end: an error lets
// it go on.
func (t *Tools) rehearseSaved(ctx context.Context, s *Subject, from snapshot.Dir, m snapshot.Manifest) error {
	if err := t.Rehearse(ctx, s, from, &m); err != nil {
		return fmt.Errorf("app %s goes on, for no app could be made of the snapshot: %w", s.Name, err)
	}
	return nil
}
