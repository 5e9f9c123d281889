package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/pause"
)

// kept is an entry that is kept alive, by one goroutine.
type kept struct {
	s     *Store
	key   string
	value string
	ttl   time.Duration
	lease clientv3.LeaseID // 0: none
	down  bool             // was logged
}

// KeepAlive implements [directory.Store]. etcd counts leases in seconds, and makes short ones
// longer: 2 seconds with its default election timeout of one second.
func (s *Store) KeepAlive(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	k := &kept{s: s, key: key, value: string(value), ttl: max(ttl, time.Second)}
	for wait := time.Duration(0); pause.For(ctx, wait, s.closed); {
		switch err := k.put(ctx); {
		case err != nil:
			k.tell(ctx, err)
			wait = min(max(2*wait, 100*time.Millisecond), k.ttl/3)
		default:
			k.tell(ctx, nil)
			k.renew(ctx)
			wait = 0
		}
	}
	if ctx.Err() == nil {
		return fmt.Errorf("keep directory entry %s: %w", key, errClosed)
	}
	return fmt.Errorf("keep directory entry %s: %w", key, errors.Join(ctx.Err(), k.drop(ctx)))
}

// put writes the entry with a new lease. A lease that was granted for nothing ends by itself.
func (k *kept) put(ctx context.Context) error {
	return k.s.write(ctx, func(ctx context.Context) error {
		l, err := k.s.client.Grant(ctx, int64((k.ttl+time.Second-1)/time.Second))
		if err != nil {
			return err
		}
		k.lease = l.ID
		_, err = k.s.client.Put(ctx, k.s.prefix+k.key, k.value, clientv3.WithLease(l.ID))
		return err
	})
}

// errLost is an entry that is not there, or not this one's any more.
var errLost = errors.New("the directory has dropped it")

// renew returns when the entry is gone, or ctx has ended. While etcd does not answer a request is
// always under way, so that the end of the lease is known as soon as etcd goes on.
func (k *kept) renew(ctx context.Context) {
	wait := k.ttl / 3
	for pause.For(ctx, wait, k.s.closed) {
		err := k.s.write(ctx, k.once)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) || errors.Is(err, errLost) {
			k.s.log.WarnContext(ctx, "the directory has dropped an entry of this host, which is put again", slog.String("key", k.key))
			return
		}
		k.tell(ctx, err)
		if wait = k.ttl / 3; err != nil {
			wait = min(wait, 100*time.Millisecond)
		}
	}
}

// once prolongs the lease, and sees that the entry is there.
func (k *kept) once(ctx context.Context) error {
	if _, err := k.s.client.KeepAliveOnce(ctx, k.lease); err != nil {
		return err
	}
	r, err := k.s.client.Get(ctx, k.s.prefix+k.key)
	if err == nil && (len(r.Kvs) == 0 || r.Kvs[0].Lease != int64(k.lease)) {
		return errLost
	}
	return err
}

// drop deletes the entry after ctx has ended.
func (k *kept) drop(ctx context.Context) error {
	if k.lease == 0 {
		return nil
	}
	err := k.s.write(context.WithoutCancel(ctx), func(ctx context.Context) error {
		_, err := k.s.client.Revoke(ctx, k.lease)
		return err
	})
	if err == nil || errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return fmt.Errorf("delete it, which happens by itself: %w", err)
}

// tell logs that the entry can't be kept, and that it can again, once each.
func (k *kept) tell(ctx context.Context, err error) {
	switch {
	case err != nil && !k.down && ctx.Err() == nil:
		k.down = true
		k.s.log.WarnContext(ctx, "this host is not seen in the directory", slog.String("key", k.key), slog.Any("error", err), slog.Bool("full", errors.Is(err, directory.ErrFull)))
	case err == nil && k.down:
		k.down = false
		k.s.log.InfoContext(ctx, "this host is seen in the directory again", slog.String("key", k.key))
	}
}
