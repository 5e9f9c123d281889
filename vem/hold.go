package vem

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/holder"
)

// Holder is the process that keeps held sockets when this one does not: the methods of
// [holder.Keeper] that a manager uses.
type Holder interface {
	holder.Store
	// Ready waits until the holder answers.
	Ready(ctx context.Context) error
	// PID is the holder process, or 0 while there is none.
	PID() int
	// Close ends the connection. The holder goes on.
	Close() error
}

var _ Holder = (*holder.Keeper)(nil)

// holding is what an endpoint holds of an app that has no processes.
type holding struct {
	keeping chan struct{} // holds one token while exclusively runs

	mu       sync.Mutex // guards what follows
	held     *hold.Set
	inodes   map[uint64]bool // of the sockets in held
	lost     Loss
	watch    *watch
	failures failures
}

// Held is what is held; nil if there is nothing. It belongs to the endpoint.
func (e *Endpoint) Held() *hold.Set {
	e.holding.mu.Lock()
	defer e.holding.mu.Unlock()
	return e.holding.held
}

// HeldInodes names the sockets that are held by the numbers that the kernel has for them now.
// The caller does not change the map.
func (e *Endpoint) HeldInodes() map[uint64]bool {
	e.holding.mu.Lock()
	defer e.holding.mu.Unlock()
	return e.holding.inodes
}

// HeldImages names them by the numbers that the app's images have for them, which are others
// on another host than that on which the app was hibernated.
func (e *Endpoint) HeldImages() map[uint64]bool {
	set := e.Held()
	if set == nil {
		return nil
	}
	inodes := make(map[uint64]bool, len(set.Sockets))
	for i := range set.Sockets {
		inodes[set.Sockets[i].ImageInode()] = true
	}
	return inodes
}

func (e *Endpoint) setHeld(set *hold.Set) {
	var inodes map[uint64]bool
	if set != nil {
		inodes = make(map[uint64]bool, len(set.Sockets))
		for i := range set.Sockets {
			inodes[set.Sockets[i].Inode] = true
		}
	}
	e.holding.mu.Lock()
	defer e.holding.mu.Unlock()
	e.holding.held, e.holding.inodes = set, inodes
}

func (e *Endpoint) setLost(why Loss) {
	e.holding.mu.Lock()
	defer e.holding.mu.Unlock()
	e.holding.lost = why
}

// Hold has the endpoint hold what was collected of the app's processes, which are frozen. The
// holder has it when Hold returns, and datagrams find the room of a long hold. The set is the
// endpoint's from now on. If Hold fails, the caller releases the endpoint.
func (e *Endpoint) Hold(ctx context.Context, set *hold.Set) error {
	e.setHeld(set)
	items, err := set.Items()
	if err != nil {
		return err
	}
	if err := e.m.holder.Put(ctx, e.id, items); err != nil {
		return err
	}
	return set.Widen()
}

// Reclaim gets the held sockets from the holder after a restart of the daemon. If the holder
// has none, the endpoint has lost them. boot is the boot of the host in which they were held,
// or empty if that is not known.
func (e *Endpoint) Reclaim(ctx context.Context, boot string) error {
	items, err := e.m.holder.Get(ctx, e.id)
	if errors.Is(err, holder.ErrNotFound) {
		e.setLost(reasonOfLoss(boot, e.m.opt.Boot))
		return nil
	}
	if err != nil {
		return err
	}
	set, err := hold.FromItems(items)
	if err != nil {
		return errors.Join(err, holder.CloseAll(items))
	}
	e.setHeld(set)
	return nil
}

func reasonOfLoss(boot, now string) Loss {
	if boot != "" && now != "" && boot != now {
		return LostByReboot
	}
	return LostByEnd
}

// Release lets go of all that is held, here and in the holder, after Disarm. Releasing again
// does nothing.
func (e *Endpoint) Release(ctx context.Context) error {
	e.holding.mu.Lock()
	e.holding.lost, e.holding.failures = "", 0
	e.holding.mu.Unlock()
	return errors.Join(e.Disarm(), e.exclusively(ctx, func() error {
		return errors.Join(e.drop(), e.m.holder.Drop(ctx, e.id))
	}))
}

// drop closes what is held here.
func (e *Endpoint) drop() error {
	set := e.Held()
	if set == nil {
		return nil
	}
	e.setHeld(nil)
	return set.Close()
}

// exclusively runs fn while nobody else gives the endpoint's sockets to the holder, or lets
// go of them: what is dropped must not come back with a new holder.
func (e *Endpoint) exclusively(ctx context.Context, fn func() error) error {
	select {
	case e.holding.keeping <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-e.holding.keeping }()
	return fn()
}

// Boot tells this boot of the host from others.
func (m *Manager) Boot() string { return m.opt.Boot }

// DefaultBootFile is where the kernel tells one boot of the host from others, random(4).
const DefaultBootFile = "/proc/sys/kernel/random/boot_id"

// BootID reads what tells one boot of the host from others; "" if that is unknown.
func BootID(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
