package trust

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// Renew replaces the key and the certificate of this host, on the disk and then for all further
// handshakes of the configurations that it gave. Open connections stay. Only one Renew works at
// a time; others wait for it, until ctx ends.
//
// sign has a CSR signed by a host that has the CA ([Authority.Renew]), and returns the chain. A
// certificate that has expired is of no use for that: its host has to join again. If Renew fails
// the old key and certificate are in use as before, unless it failed after it had put the new
// ones in place: then they are in use after a restart, or after the next Renew. A new key whose
// certificate never came is taken again by the next Renew.
func (i *Identity) Renew(ctx context.Context, sign func(ctx context.Context, csr []byte) (chain []byte, err error)) error {
	select {
	case i.renewing <- struct{}{}:
		defer func() { <-i.renewing }()
	case <-ctx.Done():
		return fmt.Errorf("renew certificate of this host: another renewal is at work: %w", ctx.Err())
	}
	p, err := i.folder.request(i.current.Load().Leaf)
	if err != nil {
		return fmt.Errorf("make new key of this host: %w", err)
	}
	csr, err := p.csr()
	if err != nil {
		return err
	}
	grant := Grant{Host: i.peer.Host, CA: i.CA()}
	if grant.Chain, err = sign(ctx, csr); err != nil {
		return fmt.Errorf("renew certificate of this host: %w", err)
	}
	if p.chain, err = parseChain(grant.Chain); err == nil {
		err = p.fits(grant, i.now())
	}
	if err != nil {
		return fmt.Errorf("renew certificate of this host: %w", err)
	}
	if got := p.chain[0].Subject.SerialNumber; got != string(i.peer.Member) {
		return fmt.Errorf("renew certificate of this host: %w: it is for member %s, and this host is %s", ErrDamaged, got, i.peer.Member)
	}
	if err := i.folder.store(identityFile, p); err != nil {
		return err
	}
	i.current.Store(p.tls())
	return i.folder.remove(requestFile)
}

// RenewAt returns when to renew: when two thirds of the certificate's life are over, and up to a
// twelfth of its life later, so that the hosts of an installation don't come together. It is the
// same time after a restart. It has passed if the certificate has expired.
func (i *Identity) RenewAt() time.Time {
	leaf := i.current.Load().Leaf
	from := issued(leaf)
	life := leaf.NotAfter.Sub(from)
	sum := sha256.Sum256(leaf.Raw)
	share := float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32)
	return from.Add(life*2/3 + time.Duration(share*float64(life)/12))
}
