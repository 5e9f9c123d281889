package server

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/runtime/server/beyond"
	"github.com/snapctl/snapctl/runtime/server/members"
	"github.com/snapctl/snapctl/runtime/server/moves"
	"github.com/snapctl/snapctl/runtime/server/transfers"
	"github.com/snapctl/snapctl/runtime/server/upkeep"
	"github.com/snapctl/snapctl/runtime/server/ways"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/store"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/ownership"
)

// Rooms are what a server asks. All of them may be asked at the same time.
type Rooms struct {
	Apps       Apps
	Operations Operations
	Maker      Maker
	Obstacles  Obstacles
	Snapshots  Snapshots
	Network    Network
	Hosts      Hosts
	Layers     Shelf // the files that apps share
	Memory     Shelf // the memory files that apps share
	Templates  Templates
	Clones     Clones
	Pools      Pools
	Events     *event.Bus
	Others
}

// Others are what has to do with other hosts of the installation.
type Others struct {
	Ways      ways.Ways
	Directory upkeep.Directory
	Courier   transfers.Courier
	Mover     moves.Mover
	Drainer   moves.Drainer
}

// Apps are the apps of the host, as [app.Registry] has them.
type Apps interface {
	Get(name string) (*engine.App, error)
	ChooseName(program string) string
	List() []*engine.App
}

// Operations are what can be done with one app, as [engine.Engine] does it.
type Operations interface {
	Run(ctx context.Context, rec app.Record) (*engine.App, error)
	Hibernate(ctx context.Context, a *engine.App, how engine.Sleep, op *event.Operation) (*engine.Outcome, error)
	Wake(ctx context.Context, a *engine.App, how engine.Awakening, op *event.Operation) (*engine.Outcome, error)
	Stop(ctx context.Context, a *engine.App, sig unix.Signal, grace time.Duration) error
	Remove(ctx context.Context, a *engine.App, force bool) error
	TakeSnapshot(ctx context.Context, a *engine.App, req engine.SnapshotRequest) (*snapshot.Manifest, *engine.Outcome, error)
}

// Maker makes apps of snapshots, as [birth.Maker] does it.
type Maker interface {
	BeginSnapshot(ctx context.Context, name string, depth snapshot.Depth) (*source.Source, error)
	Restore(ctx context.Context, req birth.RestoreRequest) (*engine.App, *engine.Outcome, error)
}

// Obstacles tells what keeps saved apps from coming back, as [restorable.Checker] does.
type Obstacles interface {
	AppObstacles(ctx context.Context, a restorable.App, depth snapshot.Depth) []restorable.Obstacle
	SnapshotObstacles(ctx context.Context, name string, depth snapshot.Depth) []restorable.Obstacle
	ManifestObstacles(ctx context.Context, dir snapshot.Dir, m *snapshot.Manifest, depth snapshot.Depth) []restorable.Obstacle
}

// Snapshots are the saved snapshots, as [store.Store] has them.
type Snapshots interface {
	Names() ([]string, error)
	Find(name string) (snapshot.Dir, *snapshot.Manifest, error)
	Claim(name string, r store.Reason) (*store.Claim, error)
	Remove(name string) error
}

// Templates are the templates of the host, as [catalog.Catalog] has them.
type Templates interface {
	Get(name string) (*catalog.Template, error)
	List() []*catalog.Template
	Ready(t *catalog.Template) int
}

// Clones makes templates, and clones of them, as [clone.Clones] does it.
type Clones interface {
	CreateTemplate(ctx context.Context, req clone.TemplateRequest) (*catalog.Template, *engine.Outcome, error)
	RemoveTemplate(ctx context.Context, name string) error
	Of(template string) []string
	NextNumber(t *catalog.Template) int
	ChooseNames(t *catalog.Template, r *clone.Request) (free func(), err error)
	Make(ctx context.Context, t *catalog.Template, req clone.Request) error
}

// Pools has clones made before somebody asks for them, as [clone.Clones] does it.
type Pools interface {
	BeginRequest() (end func())
	SetPool(ctx context.Context, t *catalog.Template, size int) error
	CountReady(t *catalog.Template) int
	Failed(t *catalog.Template) error
}

// Network is what is known of apps' addresses and held sockets, as the VEM knows it.
type Network interface {
	Owners(network string) map[netip.Addr]string
	Kept(ctx context.Context) (map[string]int, error)
	HolderPID() int
}

// Shelf has files that apps share, by their ids.
type Shelf interface {
	Path(id memory.ID) string
}

// Hosts is the installation that this host is in, if it is in one, as package
// installation has it.
type Hosts interface {
	beyond.Gateway
	moves.Hosts

	Init(ctx context.Context, req membership.InitRequest) (*membership.Host, error)
	Invite(ctx context.Context, ttl time.Duration) (*membership.Invitation, error)
	Join(ctx context.Context, req membership.JoinRequest) (*membership.Host, error)
	List(ctx context.Context) ([]membership.Host, error)
	members.Self
	Remove(ctx context.Context, name string, force bool) error
	Leave(ctx context.Context, force bool) error
	// Ways are those to another host, the best first; none if there is no channel to it.
	Ways(host string) []mesh.Way
	Takeover(ctx context.Context, app, from string) (ownership.Taken, error)
}
