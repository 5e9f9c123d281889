package membership

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/trust"
)

const (
	// lookEvery is how often the time of the next renewal is compared with the clock, which may
	// be set meanwhile.
	lookEvery = time.Hour
	// signTimeout is how long a renewal takes at most.
	signTimeout = 30 * time.Second
	retryMin    = time.Minute
	retryMax    = time.Hour
)

// KeepRenewed renews this host's certificate whenever it is time, until ctx ends; as long as this
// host is in no installation it waits. A renewal that fails is logged, and tried again.
func (m *Membership) KeepRenewed(ctx context.Context) {
	for ctx.Err() == nil {
		came := *m.came.Load()
		if identity := m.Identity(); identity != nil {
			m.keepRenewed(ctx, identity, came)
			continue
		}
		select {
		case <-came:
		case <-ctx.Done():
		}
	}
}

// keepRenewed renews a certificate until ctx ends, or this host has left.
func (m *Membership) keepRenewed(ctx context.Context, identity *trust.Identity, left <-chan struct{}) {
	retry := retryMin
	for wait := time.Duration(0); pause.For(ctx, wait, left); {
		if wait = identity.RenewAt().Sub(m.opt.Now()); wait > 0 {
			wait, retry = min(wait, lookEvery), retryMin
			continue
		}
		if err := m.renew(ctx); err != nil && ctx.Err() == nil {
			m.opt.Log.WarnContext(ctx, "can't renew this host's certificate; trying again",
				slog.Any("error", err), slog.Duration("again_in", retry), slog.Time("expires", identity.Expires()))
			wait, retry = retry, min(2*retry, retryMax)
			continue
		}
		m.opt.Log.InfoContext(ctx, "renewed this host's certificate", slog.Time("expires", identity.Expires()))
		wait = time.Nanosecond
	}
}

// renew renews this host's certificate: by its own CA, or by another host.
func (m *Membership) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	s, err := m.member()
	if err != nil {
		return err
	}
	sign := m.opt.Gate.Renew
	if s.invites != nil {
		sign = func(ctx context.Context, csr []byte) ([]byte, error) { return m.Renew(ctx, s.identity.Peer(), csr) }
	}
	return s.identity.Renew(ctx, sign)
}

// Renew signs another certificate for a host of the installation, which has asked for it by a
// connection that proved who it is. Returns an *[Error] if this host does not have the CA, and an
// error wrapping trust.ErrRemoved if the host was removed, or is an earlier one of its name.
func (m *Membership) Renew(ctx context.Context, peer trust.Peer, csr []byte) (chain []byte, err error) {
	s, err := m.member()
	if err != nil {
		return nil, err
	}
	if s.invites == nil {
		return nil, s.withoutCA(ctx)
	}
	d, err := s.directory(ctx)
	if err != nil {
		return nil, err
	}
	h, err := d.Host(ctx, peer.Host)
	if err != nil {
		return nil, err
	}
	if err := Check(func(string) (directory.Host, bool) { return h, true })(peer); err != nil {
		return nil, fmt.Errorf("renew certificate of host %s: %w", peer.Host, err)
	}
	return s.invites.ca.Renew(csr, peer)
}
