package etcd

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/snapctl/snapctl/vem/directory"
)

// pageSize is how many entries one request of List asks for: some hundred kilobytes.
const pageSize = 1000

// pageTimes is how many times as long as another call a page may take: that of the last of many hosts
// which all list at once.
const pageTimes = 6

// Get implements [directory.Store].
func (s *Store) Get(ctx context.Context, key string) (directory.Entry, error) {
	r, err := s.get(ctx, s.timeout, s.prefix+key)
	switch {
	case err != nil:
		return directory.Entry{}, fmt.Errorf("read directory entry %s: %w", key, err)
	case len(r.Kvs) == 0:
		return directory.Entry{}, fmt.Errorf("read directory entry %s: %w", key, directory.ErrNotFound)
	}
	return s.entry(r.Kvs[0]), nil
}

// List implements [directory.Store]. It asks for a page at a time, all at the first one's revision. If
// ctx has no deadline each page has one: where many hosts list at once all of them get on.
func (s *Store) List(ctx context.Context, prefix string) ([]directory.Entry, int64, error) {
	key := s.prefix + prefix
	end := clientv3.GetPrefixRangeEnd(key)
	var (
		entries  []directory.Entry
		revision int64
	)
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageSize)}
		if revision > 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		r, err := s.get(ctx, pageTimes*s.timeout, key, opts...)
		if err != nil {
			return nil, 0, fmt.Errorf("list directory entries %s: %w", prefix, err)
		}
		if revision == 0 {
			revision = r.Header.Revision
		}
		for _, kv := range r.Kvs {
			entries = append(entries, s.entry(kv))
		}
		if !r.More {
			return entries, revision, nil
		}
		key = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// get does one read that sees all that was written before it.
func (s *Store) get(ctx context.Context, within time.Duration, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	var r *clientv3.GetResponse
	err := s.read(ctx, within, func(ctx context.Context) error {
		before := s.seen.Load()
		var err error
		if r, err = s.client.Get(ctx, key, opts...); err != nil {
			return err
		}
		return s.advance(before, r.Header.Revision)
	})
	return r, err
}

func (s *Store) entry(kv *mvccpb.KeyValue) directory.Entry {
	return directory.Entry{Key: string(kv.Key[len(s.prefix):]), Value: kv.Value, Revision: kv.ModRevision}
}
