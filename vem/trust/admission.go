package trust

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Tokens is where the records of tokens are, for all hosts of the installation.
type Tokens interface {
	// Token returns the record of a token, or an error wrapping ErrTokenUnknown. The ID is Valid.
	Token(ctx context.Context, id TokenID) (Record, error)
	// Take has a token used up by one host with one key, by compare-and-swap, together with
	// whatever else makes the host a member. It returns nil if the token was unused, or was
	// used up by the same ([Use.Same]) before. Otherwise nothing changes, and it returns an
	// error wrapping ErrTokenUsed, ErrTokenUnknown, or ErrNameTaken if another host of the
	// installation has the name.
	//
	// After any other error the token may be used up, or not: the same host may ask again.
	Take(ctx context.Context, id TokenID, by Use) error
}

var (
	// ErrTokenUnknown is that there is no such token, or that its secret is wrong. Whoever has
	// not the right secret is not told which of the two.
	ErrTokenUnknown = errors.New("the installation knows no such token: it was not made here, was withdrawn, or expired long ago")
	// ErrTokenUsed is that another host, or another key, has used the token.
	ErrTokenUsed = errors.New("the token was used already: a token works once")
	// ErrTokenExpired is that the token's time is over.
	ErrTokenExpired = errors.New("the token has expired")
	// ErrNameTaken is that another host of the installation has the name.
	ErrNameTaken = errors.New("another host of the installation has this name")
	// ErrRateLimited is that too many have asked: see RateLimitedError.
	ErrRateLimited = errors.New("too many hosts have asked to join")
	// ErrBadRequest is that a host asks to join with a name or a CSR that can't be right.
	ErrBadRequest = errors.New("can't be admitted")
)

// RateLimitedError is an ErrRateLimited that says how long to wait.
type RateLimitedError struct {
	// Wait is after how long another try has a chance.
	Wait time.Duration
}

func (e *RateLimitedError) Error() string {
	return fmt.Sprintf("%s: try again in %s", ErrRateLimited, e.Wait.Round(time.Second)+time.Second)
}

func (e *RateLimitedError) Unwrap() error { return ErrRateLimited }

// admitTimeout is how long Admit takes at most.
const admitTimeout = 15 * time.Second

// JoinRequest is what a host sends to the host by which it joins.
type JoinRequest struct {
	Token  TokenID
	Secret Secret
	// Host is the name that the host wants to have.
	Host string
	CSR  []byte // PKCS #10, DER: see Request
}

// Join returns the request of a host that joins by this token.
func (t Token) Join(host string, csr []byte) JoinRequest {
	return JoinRequest{Token: t.ID, Secret: t.Secret, Host: host, CSR: csr}
}

// Admission admits hosts that were invited: it runs on each host that has the CA. Its methods
// may be called at the same time.
type Admission struct {
	authority *Authority
	tokens    Tokens
	limits    *limits
	now       func() time.Time
}

// NewAdmission returns an Admission whose certificates a signs, by a's clock, and whose tokens
// are in t.
func NewAdmission(a *Authority, t Tokens) *Admission {
	return &Admission{authority: a, tokens: t, limits: newLimits(), now: a.now}
}

// Admit checks a request that came from an address, and returns the certificate of the host and
// that of the CA, as [Authority.Sign] does.
//
// The token is used up exactly if a certificate is returned: it is signed before, and given out
// after [Tokens.Take] has agreed. A request whose answer was lost, or whose Take had an unknown
// end, is repeated with the same token, name and key while the token has not expired.
//
// A wrong secret never uses up or locks the token, since then whoever knows an ID could keep
// others from joining. What bounds wrong tries is their rate, by source address (of IPv6, its
// /64) and over all, against 160 random bits. What is remembered of sources is bounded too.
//
// Returns an error wrapping one of ErrRateLimited, ErrBadRequest, ErrTokenUnknown,
// ErrTokenExpired, ErrTokenUsed, ErrNameTaken, or one of Tokens.
func (a *Admission) Admit(ctx context.Context, from netip.Addr, r JoinRequest) (chain []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	now := a.now()
	if wait := a.limits.try(from, now); wait > 0 {
		return nil, &RateLimitedError{Wait: wait}
	}
	use, err := a.read(r, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if !r.Token.Valid() {
		return nil, fmt.Errorf("token %.20q: %w", string(r.Token), ErrTokenUnknown)
	}
	record, err := a.tokens.Token(ctx, r.Token)
	if err != nil {
		return nil, fmt.Errorf("token %s: %w", r.Token, err)
	}
	if err := record.allow(r.Secret, use); err != nil {
		return nil, err
	}
	if chain, err = a.authority.Sign(r.CSR, r.Host); err != nil {
		return nil, err
	}
	if err := a.tokens.Take(ctx, r.Token, use); err != nil {
		return nil, fmt.Errorf("use token %s for host %s: %w", r.Token, r.Host, err)
	}
	return chain, nil
}

// read checks all of a request that needs no token.
func (a *Admission) read(r JoinRequest, now time.Time) (Use, error) {
	if err := CheckHost(r.Host); err != nil {
		return Use{}, err
	}
	req, err := parseRequest(r.CSR)
	if err != nil {
		return Use{}, err
	}
	return Use{
		Host: r.Host, Key: fingerprint(req.RawSubjectPublicKeyInfo), At: now.UTC().Truncate(time.Second),
	}, nil
}

// allow tells whether a secret is that of the token, and the token may be used.
func (r Record) allow(s Secret, use Use) error {
	switch {
	case !r.Fits(s):
		return fmt.Errorf("token %s: %w", r.ID, ErrTokenUnknown)
	case use.At.After(r.Expires):
		return fmt.Errorf("token %s: %w: it was made by host %s at %s for use until %s, and the clock of the host that is joined says %s", r.ID, ErrTokenExpired, r.MadeBy, stamp(r.Made), stamp(r.Expires), stamp(use.At))
	case r.Used != nil && !r.Used.Same(use):
		return fmt.Errorf("token %s: %w (by host %s at %s): ask for another one with \"snapctl host invite\"", r.ID, ErrTokenUsed, r.Used.Host, stamp(r.Used.At))
	}
	return nil
}
