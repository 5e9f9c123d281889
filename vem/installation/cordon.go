package installation

import (
	"context"
	"time"
)

// askPatience is how long it is asked whether this host is cordoned, before what is known is believed.
const askPatience = 3 * time.Second

// TakesApps returns why this host takes no apps of other hosts, see [membership.Membership.TakesApps].
func (i *Installation) TakesApps(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	return i.Membership.TakesApps(ctx, i.knownHosts())
}
