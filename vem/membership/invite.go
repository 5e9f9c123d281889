package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/trust"
)

// invites are the invitations of the installation, at a host that has the CA.
type invites struct {
	ca        *trust.Authority
	admission *trust.Admission
	member    *member
	now       func() time.Time
}

func newInvites(ca *trust.Authority, s *member, now func() time.Time) *invites {
	i := &invites{ca: ca, member: s, now: now}
	i.admission = trust.NewAdmission(ca, i)
	return i
}

// Invite makes a token by which one host may join, within ttl. Returns an *[Error] if this host is
// in no installation, or does not have its CA.
func (m *Membership) Invite(ctx context.Context, ttl time.Duration) (*Invitation, error) {
	s, err := m.member()
	if err != nil {
		return nil, err
	}
	if s.invites == nil {
		return nil, s.withoutCA(ctx)
	}
	token, r, err := trust.NewToken(s.identity.CA(), s.identity.Host(), m.opt.Now(), ttl)
	if err != nil {
		return nil, &Error{Text: err.Error(), Remedy: "give it a longer --ttl"}
	}
	if err := s.invites.put(ctx, r); err != nil {
		return nil, fmt.Errorf("invite a host: %w", err)
	}
	return &Invitation{Token: token.Text(), Addresses: ports(s.record.Place.place()), ExpiresAt: r.Expires}, nil
}

// withoutCA says that this host can't sign, and who can.
func (s *member) withoutCA(ctx context.Context) error {
	e := &Error{
		Text:   fmt.Sprintf("host %s does not have the CA of the installation, which invites and lets in", s.identity.Host()),
		Remedy: "invite on a host that has it, or have this one get it with \"snapctl host init\"",
	}
	if d, err := s.directory(ctx); err == nil {
		if hosts, err := d.Hosts(ctx); err == nil {
			if names := Signers(hosts); len(names) > 0 {
				e.Remedy = fmt.Sprintf("invite on %s, which %s; or have this host get it with \"snapctl host init\"",
					strings.Join(names, " or "), map[bool]string{true: "has it", false: "have it"}[len(names) == 1])
			}
		}
	}
	return e
}

// Signers are the names of the hosts that have the CA.
func Signers(hosts []directory.Host) (names []string) {
	for _, h := range hosts {
		if h.CA && !h.Removed {
			names = append(names, h.Name)
		}
	}
	return names
}

// Admit lets a host in that asks from an address, as [trust.Admission] does, and enters it into
// the directory at the same moment as its token is used up.
func (m *Membership) Admit(ctx context.Context, from netip.Addr, r trust.JoinRequest) (Welcome, error) {
	s, err := m.member()
	if err != nil {
		return Welcome{}, err
	}
	if s.invites == nil {
		return Welcome{}, s.withoutCA(ctx)
	}
	chain, err := s.invites.admission.Admit(ctx, from, r)
	return Welcome{Installation: string(s.identity.Installation()), Chain: chain, Directory: s.record.Directory}, err
}

// key is that of a token's record in the directory.
func (i *invites) key(id trust.TokenID) string {
	return directory.Prefix(string(i.ca.Installation())) + "token/" + string(id)
}

// put stores the record of a new token, and sweeps those away that have expired.
func (i *invites) put(ctx context.Context, r trust.Record) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	t := directory.Txn{
		If: []directory.Condition{{Key: i.key(r.ID)}}, Puts: []directory.Put{{Key: i.key(r.ID), Value: value}},
	}
	old, _, err := i.member.store.List(ctx, i.key(""))
	if err != nil {
		return err
	}
	for _, e := range old {
		var r trust.Record
		// A token that has expired is known for as long again, so that whoever uses it hears so.
		if json.Unmarshal(e.Value, &r) == nil && i.now().After(r.Expires.Add(r.Expires.Sub(r.Made))) && len(t.Deletes) < directory.MaxTxn/2 {
			t.Deletes = append(t.Deletes, e.Key)
		}
	}
	_, err = i.member.store.Commit(ctx, t)
	return err
}

// Token implements [trust.Tokens].
func (i *invites) Token(ctx context.Context, id trust.TokenID) (trust.Record, error) {
	r, _, err := i.read(ctx, id)
	return r, err
}

func (i *invites) read(ctx context.Context, id trust.TokenID) (r trust.Record, revision int64, err error) {
	e, err := i.member.store.Get(ctx, i.key(id))
	if errors.Is(err, directory.ErrNotFound) {
		return r, 0, trust.ErrTokenUnknown
	}
	if err == nil {
		err = json.Unmarshal(e.Value, &r)
	}
	return r, e.Revision, err
}

// Take implements [trust.Tokens]: the token is used up and the host entered by one transaction.
func (i *invites) Take(ctx context.Context, id trust.TokenID, by trust.Use) error {
	r, revision, err := i.read(ctx, id)
	if err != nil {
		return err
	}
	if r.Used != nil && !r.Used.Same(by) {
		return trust.ErrTokenUsed
	}
	d, err := i.member.directory(ctx)
	if err != nil {
		return err
	}
	r.Used = &by
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	key := i.key(id)
	_, err = d.Admit(ctx, directory.Host{Name: by.Host, Key: by.Key.String(), JoinedAt: by.At}, directory.Txn{
		If: []directory.Condition{{Key: key, Revision: revision}}, Puts: []directory.Put{{Key: key, Value: value}},
	})
	if _, ok := errors.AsType[*directory.HostError](err); ok {
		return fmt.Errorf("%w: %w", trust.ErrNameTaken, err)
	}
	var conflict *directory.ConflictError
	if errors.As(err, &conflict) && conflict.Key == key {
		return i.taken(ctx, id, by)
	}
	return err
}

// taken tells who was sooner.
func (i *invites) taken(ctx context.Context, id trust.TokenID, by trust.Use) error {
	switch r, _, err := i.read(ctx, id); {
	case err != nil:
		return err
	case r.Used != nil && r.Used.Same(by):
		return nil
	default:
		return trust.ErrTokenUsed
	}
}
