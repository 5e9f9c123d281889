package registrar

import (
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/overview"
)

// Here are the endpoints of this host. r is nil if the directory was not reached yet.
func Here(local Networks, self string, r *Registrar) (list []overview.Resolution, err error) {
	held := local.Holding()
	for _, e := range local.Present() {
		s, err := local.Space(e.Network)
		if err != nil {
			return nil, err
		}
		found := overview.Resolution{
			Network: e.Network, App: e.App, Addr4: e.Addr4, Addr6: s.Pair(e.Addr4), Host: self,
			Self: true, Alive: true, State: string(directory.Running), Source: overview.Here, AsOf: time.Now(),
		}
		if held[e.App] {
			found.State = string(directory.Held)
		}
		if self != "" {
			found.Epoch = 1
		}
		if r != nil {
			found.Epoch = r.Epoch(e)
		}
		list = append(list, found)
	}
	return list, nil
}
