package clone

import (
	"context"

	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/template"
)

// lazySource is the snapshot of a template, opened when it is first
// needed: clones from the pool are made of it already.
type lazySource struct {
	store  *store.Store
	t      *catalog.Template
	opened *source.Source
}

func (l *lazySource) get(ctx context.Context) (*source.Source, error) {
	if l.opened == nil {
		s, err := l.store.Begin(ctx, l.t.Snapshot, snapshot.ByStamp)
		if err != nil {
			return nil, err
		}
		l.opened = &source.Source{Snapshot: s}
	}
	return l.opened, nil
}

// images tells what the template's images say; once it is known, without the snapshot.
func (l *lazySource) images(ctx context.Context) (*template.Images, error) {
	if known := l.t.Known(); known != nil {
		return known, nil
	}
	s, err := l.get(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Checked(); err != nil {
		return nil, err
	}
	return l.t.Inspect(ctx, s.Inspect)
}

func (l *lazySource) close() {
	if l.opened != nil {
		l.opened.Close()
	}
}
