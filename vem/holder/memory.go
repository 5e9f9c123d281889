package holder

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Memory is a [Store] in this process, for tests of what is built on one.
type Memory struct {
	mu   sync.Mutex
	apps map[string][]Item
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory { return &Memory{apps: map[string][]Item{}} }

// Put implements [Store].
func (m *Memory) Put(ctx context.Context, app string, items []Item) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := checkItems(app, items); err != nil {
		return fmt.Errorf("put descriptors of %q: %w", app, err)
	}
	copies, err := duplicate(items)
	if err != nil {
		return fmt.Errorf("put descriptors of %q: %w", app, err)
	}
	m.mu.Lock()
	old := m.apps[app]
	m.apps[app] = copies
	m.mu.Unlock()
	return CloseAll(old)
}

// Get implements [Store].
func (m *Memory) Get(ctx context.Context, app string) ([]Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	items, ok := m.apps[app]
	if !ok {
		return nil, fmt.Errorf("get descriptors of %q: %w", app, ErrNotFound)
	}
	copies, err := duplicate(items)
	if err != nil {
		return nil, fmt.Errorf("get descriptors of %q: %w", app, err)
	}
	return copies, nil
}

// Drop implements [Store].
func (m *Memory) Drop(ctx context.Context, app string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	old := m.apps[app]
	delete(m.apps, app)
	m.mu.Unlock()
	return CloseAll(old)
}

// List implements [Store].
func (m *Memory) List(ctx context.Context) (map[string]int, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]int, len(m.apps))
	for app, items := range m.apps {
		out[app] = len(items)
	}
	return out, nil
}

// Close drops everything.
func (m *Memory) Close() error {
	m.mu.Lock()
	apps := m.apps
	m.apps = map[string][]Item{}
	m.mu.Unlock()
	for _, items := range apps {
		if err := CloseAll(items); err != nil {
			return err
		}
	}
	return nil
}

// duplicate copies items with a descriptor each of their own.
func duplicate(items []Item) ([]Item, error) {
	out := make([]Item, 0, len(items))
	for _, it := range items {
		fd, err := unix.FcntlInt(it.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			CloseAll(out) //nolint:errcheck // the first error counts
			return nil, err
		}
		out = append(out, Item{Key: it.Key, Meta: bytes.Clone(it.Meta), File: os.NewFile(uintptr(fd), it.File.Name())})
	}
	return out, nil
}
