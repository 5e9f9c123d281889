package etcd

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/snapctl/snapctl/vem/directory"
)

// Commit implements [directory.Store]. It is one request, and is not repeated.
func (s *Store) Commit(ctx context.Context, t directory.Txn) (int64, error) {
	if err := t.Validate(); err != nil {
		return 0, fmt.Errorf("change directory: %w", err)
	}
	conditions := make([]clientv3.Cmp, 0, len(t.If))
	otherwise := make([]clientv3.Op, 0, len(t.If))
	for _, c := range t.If {
		key := s.prefix + c.Key
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(key), "=", c.Revision))
		otherwise = append(otherwise, clientv3.OpGet(key))
	}
	changes := make([]clientv3.Op, 0, len(t.Puts)+len(t.Deletes))
	for _, p := range t.Puts {
		changes = append(changes, clientv3.OpPut(s.prefix+p.Key, string(p.Value)))
	}
	for _, key := range t.Deletes {
		changes = append(changes, clientv3.OpDelete(s.prefix+key))
	}
	var r *clientv3.TxnResponse
	err := s.write(ctx, func(ctx context.Context) error {
		before := s.seen.Load()
		var err error
		if r, err = s.client.Txn(ctx).If(conditions...).Then(changes...).Else(otherwise...).Commit(); err != nil {
			return err
		}
		return s.advance(before, r.Header.Revision)
	})
	switch {
	case err != nil:
		return 0, fmt.Errorf("change directory: %w", err)
	case !r.Succeeded:
		return 0, s.conflict(t.If, r)
	}
	return r.Header.Revision, nil
}

// conflict finds the first condition that does not hold. The entries were read by the same
// request that compared them.
func (s *Store) conflict(conditions []directory.Condition, r *clientv3.TxnResponse) error {
	for i, c := range conditions {
		now := directory.Entry{Key: c.Key}
		if kvs := r.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			now = s.entry(kvs[0])
		}
		if now.Revision != c.Revision {
			return &directory.ConflictError{Key: c.Key, Now: now}
		}
	}
	return errors.New("change directory: etcd refused a transaction all of whose conditions hold")
}
