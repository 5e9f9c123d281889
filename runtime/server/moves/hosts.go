package moves

import (
	"context"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/server/members"
	"github.com/snapctl/snapctl/vem/membership"
)

// Hosts are those of the installation, as [installation.Installation] has them.
type Hosts interface {
	SetCordoned(ctx context.Context, host string, cordoned bool) (*membership.Host, error)
}

// Moves answers requests about hosts that apps move to, and leave.
type Moves struct {
	Hosts   Hosts
	Drainer Drainer
}

// CordonHost implements the API.
func (m *Moves) CordonHost(ctx context.Context, req *api.CordonHostRequest) (*api.Host, error) {
	h, err := m.Hosts.SetCordoned(ctx, req.GetHost(), req.GetCordoned())
	return members.Show(h), err
}
