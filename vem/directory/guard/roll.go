package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/pause"
)

// Roll is which hosts the installation has, by the records of the directory.
type Roll struct {
	client *clientv3.Client
	prefix string

	mu    sync.Mutex
	hosts map[string]directory.Host
}

// NewRoll returns the roll of an installation whose keys begin with keys, from what a member knows.
// It knows nothing yet. The client is that of the member alone, and remains the caller's.
func NewRoll(client *clientv3.Client, keys string) *Roll {
	return &Roll{client: client, prefix: keys + string(directory.KindHost), hosts: make(map[string]directory.Host)}
}

// Host returns what the member knows of a host.
func (r *Roll) Host(name string) (directory.Host, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.hosts[name]
	return h, ok
}

// Load reads what the member knows, which needs no other member, and returns the revision of that.
func (r *Roll) Load(ctx context.Context) (revision int64, err error) {
	got, err := r.client.Get(ctx, r.prefix, clientv3.WithPrefix(), clientv3.WithSerializable())
	if err != nil {
		return 0, fmt.Errorf("read which hosts there are: %w", err)
	}
	hosts := make(map[string]directory.Host)
	for _, kv := range got.Kvs {
		if h, ok := r.read(kv.Key, kv.Value); ok {
			hosts[h.Name] = h
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts = hosts
	return got.Header.GetRevision(), nil
}

// read reads a record. One that can't be read is as one that is not there: the certificate of the
// host says that it was let in.
func (r *Roll) read(key, value []byte) (h directory.Host, ok bool) {
	err := json.Unmarshal(value, &h)
	return h, err == nil && h.Name == strings.TrimPrefix(string(key), r.prefix)
}

// again is how long Follow waits after the member could not be read.
const again = 500 * time.Millisecond

// Follow keeps the roll as the member has it until ctx ends, and calls changed after each change.
func (r *Roll) Follow(ctx context.Context, changed func()) {
	for {
		if err := r.follow(ctx, changed); err == nil {
			continue // what it has missed is read anew
		}
		if !pause.For(ctx, again, nil) {
			return
		}
	}
}

// errEnded is that a watch was ended by the member.
var errEnded = errors.New("the watch has ended")

// follow returns nil if changes that it needs are forgotten.
func (r *Roll) follow(ctx context.Context, changed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	revision, err := r.Load(ctx)
	if err != nil {
		return err
	}
	changed()
	for w := range r.client.Watch(ctx, r.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision+1)) {
		if w.CompactRevision != 0 {
			return nil
		}
		if err := w.Err(); err != nil {
			return err
		}
		if r.apply(w.Events) {
			changed()
		}
	}
	return errEnded
}

func (r *Roll) apply(events []*clientv3.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	hosts := maps.Clone(r.hosts)
	for _, e := range events {
		name := strings.TrimPrefix(string(e.Kv.Key), r.prefix)
		delete(hosts, name)
		if h, ok := r.read(e.Kv.Key, e.Kv.Value); ok && e.Type != clientv3.EventTypeDelete {
			hosts[name] = h
		}
	}
	r.hosts = hosts
	return len(events) > 0
}
