package vem

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/snapctl/snapctl/vem/holder"
)

// refill gives a new holder all that this manager holds. What it has not got yet,
// because it has just started, went with the old holder.
func (m *Manager) refill(ctx context.Context, to holder.Store) error {
	var errs []error
	strays, endpoints := m.holders()
	for id, items := range strays {
		errs = append(errs, to.Put(ctx, id, items))
	}
	for _, e := range endpoints {
		err := e.exclusively(ctx, func() error {
			set := e.Held()
			if set == nil {
				return nil
			}
			items, err := set.Items()
			if err != nil {
				return err
			}
			return to.Put(ctx, e.id, items)
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("app %s: %w", e.Claim().App, err))
		}
	}
	err := errors.Join(append(errs, m.refillQueues(ctx, to))...)
	if err == nil && m.opt.Refilled != nil {
		m.opt.Refilled()
	}
	return err
}

// holders are the strays and the endpoints of this moment.
func (m *Manager) holders() (strays map[string][]holder.Item, endpoints []*Endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	strays = maps.Clone(m.strays)
	for e := range m.endpoints {
		endpoints = append(endpoints, e)
	}
	return strays, endpoints
}

// HolderReady waits until the holder answers: for who wants to wait before an app stands
// still. Returns an error wrapping [holder.ErrDown] if none can be started.
func (m *Manager) HolderReady(ctx context.Context) error { return m.holder.Ready(ctx) }

// HolderPID is the holder process; 0 while there is none.
func (m *Manager) HolderPID() int { return m.holder.PID() }

// Kept tells how many descriptors the holder has of each app, by [Claim.ID].
func (m *Manager) Kept(ctx context.Context) (map[string]int, error) {
	kept, err := m.holder.List(ctx)
	maps.DeleteFunc(kept, func(id string, _ int) bool { _, ok := queueOf(id); return ok })
	return kept, err
}

// Fate is what becomes of sockets that the holder has.
type Fate int

// The fates.
const (
	Keep  Fate = iota // an endpoint has them
	Stray             // their app is not known, but its files are there: they stay with the holder
	Drop              // nobody needs them
)

// DropOrphans lets go of sockets in the holder whose app is gone, or needs them no more, and of
// queues of networks without endpoints. It is called once, when all endpoints of an earlier manager have been adopted.
func (m *Manager) DropOrphans(ctx context.Context, fate func(id string) Fate) error {
	kept, err := m.holder.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for id := range kept {
		if network, ok := queueOf(id); ok {
			errs = append(errs, m.adoptQueue(ctx, network))
			continue
		}
		switch fate(id) {
		case Keep:
		case Stray:
			errs = append(errs, m.keepStray(ctx, id))
		case Drop:
			errs = append(errs, m.holder.Drop(ctx, id))
		}
	}
	return errors.Join(errs...)
}

// keepStray takes sockets of an app that is not known, so that the next holder gets them, too.
func (m *Manager) keepStray(ctx context.Context, id string) error {
	items, err := m.holder.Get(ctx, id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.strays[id] = items
	return nil
}
