package checkpoint

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

// moved lists the unix sockets whose files are not where they were bound: a copy binds
// them to where the files are.
func (o *taking) moved(ctx context.Context, s *Subject, pids []int) ([]snapshot.External, error) {
	found, err := collect.FindMoved(ctx, pids, o.PID)
	if err != nil {
		return nil, err
	}
	for _, m := range found {
		if m.Names > 1 {
			s.Note(fmt.Sprintf("the unix socket at %s has more than one name: a copy has this one alone", m.Path), "")
		}
	}
	return externalMoved(found), nil
}

// heldMoved lists the same for sockets that are held, as far as there is a path to bind them
// to. It is for a wake after the hold was lost.
func (o *taking) heldMoved(ctx context.Context, pids []int) ([]snapshot.External, error) {
	found, err := collect.FindMoved(ctx, pids, o.PID)
	if errors.Is(err, hold.ErrUnsupported) {
		err = nil
	}
	return externalMoved(found), err
}

func externalMoved(found []collect.Moved) []snapshot.External {
	list := make([]snapshot.External, len(found))
	for i, m := range found {
		list[i] = snapshot.External{Kind: snapshot.ExternalMoved, Key: fmt.Sprintf("moved[%x]", m.Inode), Inode: m.Inode, Path: m.Path}
	}
	return list
}
