package holder

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// vault is what the holder process keeps. It has plain descriptor numbers: an
// os.File would be watched by the Go runtime, which has no business with the
// apps' sockets.
type vault struct {
	limit int // descriptors it may have, staged ones included

	mu     sync.Mutex
	apps   map[string]*kept
	gen    uint64
	staged int // descriptors that belong to unfinished puts
}

// kept is one app's descriptors. It never changes once it is in the vault.
type kept struct {
	gen   uint64
	items []keptItem
}

type keptItem struct {
	key  string
	meta json.RawMessage
	fd   int
}

// reserve is how many descriptors the holder needs for itself: its standard
// files, poller, listener and connections.
const reserve = 64

func newVault() (*vault, error) {
	var rl unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rl); err != nil {
		return nil, fmt.Errorf("get RLIMIT_NOFILE: %w", err)
	}
	limit := int(min(rl.Cur, 1<<30)) - reserve
	if err := grow(min(limit, 1<<16)); err != nil {
		return nil, fmt.Errorf("grow descriptor table: %w", err)
	}
	return &vault{limit: limit, apps: map[string]*kept{}}, nil
}

// grow makes the descriptor table long enough for n descriptors, 8 bytes each:
// later, each doubling would wait for an RCU grace period (fs/file.c,
// expand_fdtable) while the app that is being put is frozen.
func grow(n int) error {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	top, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, n)
	if err != nil {
		return err
	}
	return unix.Close(top)
}

// admit reserves room for n staged descriptors.
func (v *vault) admit(n int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	have := v.staged
	for _, k := range v.apps {
		have += len(k.items)
	}
	if n < 0 || n > v.limit-have {
		return fmt.Errorf("%w: %d more do not fit beside %d, RLIMIT_NOFILE leaves room for %d", ErrFull, n, have, v.limit)
	}
	v.staged += n
	return nil
}

func (v *vault) release(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.staged -= n
}

// commit replaces an app's descriptors, and closes the old ones. From here on
// the vault owns the new ones.
func (v *vault) commit(app string, items []keptItem) {
	v.mu.Lock()
	v.gen++
	old := v.apps[app]
	v.apps[app] = &kept{gen: v.gen, items: items}
	v.mu.Unlock()
	old.close()
}

func (v *vault) drop(app string) {
	v.mu.Lock()
	old := v.apps[app]
	delete(v.apps, app)
	v.mu.Unlock()
	old.close()
}

func (k *kept) close() {
	if k == nil {
		return
	}
	for _, it := range k.items {
		unix.Close(it.fd) //nolint:errcheck // nothing was written through it
	}
}

// part calls use with the items from an index on, as many as go into one packet.
// They stay open during the call.
func (v *vault) part(req request, use func(response, []int) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	k := v.apps[req.App]
	switch {
	case k == nil:
		return fmt.Errorf("%w: %q", ErrNotFound, req.App)
	case req.From < 0 || req.From > len(k.items):
		return fmt.Errorf("%w: item %d of %d", ErrProtocol, req.From, len(k.items))
	case req.From > 0 && req.Gen != k.gen:
		return fmt.Errorf("%w: %q", ErrChanged, req.App)
	}
	r := response{Version: protocolVersion, Gen: k.gen}
	var fds []int
	size, next := 0, req.From
	for ; next < len(k.items) && len(fds) < batchItems && size < batchBytes; next++ {
		it := k.items[next]
		r.Items = append(r.Items, wireItem{Key: it.key, Meta: it.meta})
		fds = append(fds, it.fd)
		size += len(it.key) + len(it.meta)
	}
	r.More = next < len(k.items)
	return use(r, fds)
}

// list counts the descriptors of the apps whose names come after a given one, as
// many apps as go into one packet.
func (v *vault) list(after string) (counts map[string]int, more continuance) {
	v.mu.Lock()
	defer v.mu.Unlock()
	counts = map[string]int{}
	for _, app := range slices.Sorted(maps.Keys(v.apps)) {
		if app <= after {
			continue
		}
		if len(counts) == batchItems {
			return counts, true
		}
		counts[app] = len(v.apps[app].items)
	}
	return counts, false
}

// close closes everything.
func (v *vault) close() {
	v.mu.Lock()
	apps := v.apps
	v.apps = map[string]*kept{}
	v.mu.Unlock()
	for _, k := range apps {
		k.close()
	}
}
