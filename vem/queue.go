package vem

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/snapctl/snapctl/vem/holder"
)

// queues are the descriptors of queues in which packets wait that have no way to their endpoint
// yet, by network: see [slowpath.Path.Device]. The holder has each of them too, so that what
// waits there outlives this process.
type queues struct {
	turn chan struct{} // has a token while somebody changes them here or in the holder
	of   map[string]*os.File
}

func newQueues() queues {
	return queues{turn: make(chan struct{}, 1), of: make(map[string]*os.File)}
}

// exclusively runs fn while nobody else changes the queues.
func (q queues) exclusively(ctx context.Context, fn func() error) error {
	select {
	case q.turn <- struct{}{}:
		defer func() { <-q.turn }()
		return fn()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// queueKey is the key of a queue in the holder.
const queueKey = "queue"

// queueID is what the holder has a network's queue under. No app's [Claim.ID] has a slash.
func queueID(network string) string { return "network/" + network }

// queueOf returns the network of a queue that the holder has under id.
func queueOf(id string) (network string, ok bool) { return strings.CutPrefix(id, queueID("")) }

func queueItem(f *os.File) []holder.Item { return []holder.Item{{Key: queueKey, File: f}} }

// KeepQueue has the holder keep the queue of a network's packets that have no way yet, in place
// of one that it has kept before. It is dropped when no other host shares the network any more.
// The manager closes f, unless KeepQueue fails.
func (m *Manager) KeepQueue(ctx context.Context, network string, f *os.File) error {
	return m.queues.exclusively(ctx, func() error {
		if err := m.holder.Put(ctx, queueID(network), queueItem(f)); err != nil {
			return err
		}
		before := m.queues.of[network]
		m.queues.of[network] = f
		return closeQueue(before)
	})
}

// KeptQueue returns a duplicate of the queue that is kept for a network, which the caller closes;
// nil if none is kept.
func (m *Manager) KeptQueue(ctx context.Context, network string) (*os.File, error) {
	items, err := m.holder.Get(ctx, queueID(network))
	if errors.Is(err, holder.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return items[0].File, holder.CloseAll(items[1:])
}

// dropQueue lets go of the queue of a network, if there is one.
func (m *Manager) dropQueue(ctx context.Context, network string) error {
	return m.queues.exclusively(ctx, func() error {
		f, ok := m.queues.of[network]
		if !ok {
			return nil
		}
		delete(m.queues.of, network)
		return errors.Join(closeQueue(f), m.holder.Drop(ctx, queueID(network)))
	})
}

// adoptQueue takes up what the holder has of an earlier manager: the queue of a network that
// still has endpoints, so that a new holder gets it too. All others are dropped.
func (m *Manager) adoptQueue(ctx context.Context, network string) error {
	return m.queues.exclusively(ctx, func() error {
		if _, ok := m.queues.of[network]; ok {
			return nil
		}
		if !m.inhabited(network) {
			return m.holder.Drop(ctx, queueID(network))
		}
		f, err := m.KeptQueue(ctx, network)
		if f != nil {
			m.queues.of[network] = f
		}
		return err
	})
}

// refillQueues gives a new holder the queues.
func (m *Manager) refillQueues(ctx context.Context, to holder.Store) error {
	return m.queues.exclusively(ctx, func() error {
		var errs []error
		for network, f := range m.queues.of {
			errs = append(errs, to.Put(ctx, queueID(network), queueItem(f)))
		}
		return errors.Join(errs...)
	})
}

// closeQueues lets go of the queues, which the holder has still.
func (m *Manager) closeQueues() error {
	var errs []error
	for _, f := range m.queues.of {
		errs = append(errs, closeQueue(f))
	}
	return errors.Join(errs...)
}

func closeQueue(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}
