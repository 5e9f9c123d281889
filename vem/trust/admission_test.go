package trust

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

// tokens is a Tokens in memory, with which something can go wrong.
type tokens struct {
	mu      sync.Mutex
	records map[TokenID]Record
	hosts   map[string]Fingerprint
	after   error // what Take returns although it has done its work
	before  error // what Take returns and has done nothing
}

func (s *tokens) Token(_ context.Context, id TokenID) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[id]
	if !ok {
		return Record{}, ErrTokenUnknown
	}
	return r, nil
}

func (s *tokens) Take(_ context.Context, id TokenID, by Use) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[id]
	key, taken := s.hosts[by.Host]
	switch {
	case s.before != nil:
		return s.before
	case !ok:
		return ErrTokenUnknown
	case r.Used != nil && !r.Used.Same(by):
		return ErrTokenUsed
	case taken && key != by.Key:
		return ErrNameTaken
	}
	r.Used = &by
	s.records[id], s.hosts[by.Host] = r, by.Key
	return s.after
}

// lobby is an installation that hosts ask to join, by a clock that the test sets.
type lobby struct {
	*Admission
	watch  *watch
	tokens *tokens
	token  Token
}

func newLobby(t *testing.T) *lobby {
	t.Helper()
	w := newWatch(noon)
	a, err := CreateAuthority(t.TempDir(), AuthorityOptions{Now: w.now})
	qt.Assert(t, qt.IsNil(err))
	s := &tokens{records: make(map[TokenID]Record), hosts: make(map[string]Fingerprint)}
	l := &lobby{Admission: NewAdmission(a, s), watch: w, tokens: s}
	l.token = l.invite(t)
	return l
}

func (l *lobby) invite(t *testing.T) Token {
	t.Helper()
	token, record, err := NewToken(l.authority.Fingerprint(), "a", noon, time.Hour)
	qt.Assert(t, qt.IsNil(err))
	l.tokens.records[token.ID] = record
	return token
}

// used tells whether the token is used up.
func (l *lobby) used() bool {
	r, _ := l.tokens.Token(context.Background(), l.token.ID) //nolint:forbidigo // no test is at hand
	return r.Used != nil
}

// address returns a source that nobody else has.
func address(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2 + byte(n>>8), byte(n)}) }

func newRequest(t *testing.T) []byte {
	t.Helper()
	csr, err := Request(t.TempDir())
	qt.Assert(t, qt.IsNil(err))
	return csr
}

func TestAdmit(t *testing.T) {
	l, dir := newLobby(t), t.TempDir()
	csr, err := Request(dir)
	qt.Assert(t, qt.IsNil(err))
	chain, err := l.Admit(t.Context(), address(1), l.token.Join("b", csr))
	qt.Assert(t, qt.IsNil(err))
	b, err := Accept(dir, Grant{Chain: chain, Host: "b", CA: l.token.CA}, l.watch.now)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(b.Host(), "b"))
	// The directory knows the host by the key that it joined with.
	qt.Assert(t, qt.Equals(l.tokens.hosts["b"].Member(), b.Member()))
	qt.Assert(t, qt.IsTrue(l.used()))

	// Whoever else has seen the token can't use it.
	_, err = l.Admit(t.Context(), address(2), l.token.Join("c", newRequest(t)))
	qt.Assert(t, qt.ErrorIs(err, ErrTokenUsed))
	qt.Assert(t, qt.ErrorMatches(err, ".*by host b at 2026-11-30T12:00:00Z.*host invite.*"))
	// Nor can the host itself, under another name.
	_, err = l.Admit(t.Context(), address(2), l.token.Join("c", csr))
	qt.Assert(t, qt.ErrorIs(err, ErrTokenUsed))
}

// TestAdmitRefuses has nothing used up by a request that is refused.
func TestAdmitRefuses(t *testing.T) {
	wrong := func(t *testing.T, l *lobby) Token {
		t.Helper()
		token := l.invite(t)
		token.ID = l.token.ID
		return token
	}
	own := func(_ *testing.T, l *lobby) Token { return l.token }
	for name, c := range map[string]struct {
		token func(*testing.T, *lobby) Token
		host  string
		csr   []byte
		late  time.Duration
		is    error
		says  string
	}{
		"unknown":                        {func(_ *testing.T, l *lobby) Token { l.token.ID = "aaaaaaaaaaaaaaaa"; return l.token }, "b", newRequest(t), 0, ErrTokenUnknown, "no such token"},
		"no ID":                          {func(_ *testing.T, l *lobby) Token { l.token.ID = "../host"; return l.token }, "b", newRequest(t), 0, ErrTokenUnknown, "no such token"},
		"wrong secret":                   {wrong, "b", newRequest(t), 0, ErrTokenUnknown, "no such token"},
		"no secret":                      {func(_ *testing.T, l *lobby) Token { return Token{ID: l.token.ID} }, "b", newRequest(t), 0, ErrTokenUnknown, "no such token"},
		"wrong secret of an expired one": {wrong, "b", newRequest(t), 2 * time.Hour, ErrTokenUnknown, "no such token"},
		"expired":                        {own, "b", newRequest(t), time.Hour + time.Second, ErrTokenExpired, "made by host a at 2026-11-30T12:00:00Z for use until 2026-11-30T13:00:00Z, and the clock of the host that is joined says 2026-11-30T13:00:01Z"},
		"a bad name":                     {own, "B", newRequest(t), 0, ErrBadRequest, `take "b"`},
		"a bad CSR":                      {own, "b", []byte("x"), 0, ErrBadRequest, "read certificate request"},
		"a huge CSR":                     {own, "b", make([]byte, 1<<20), 0, ErrBadRequest, "may have 4096"},
		"a name that is taken":           {own, "taken", newRequest(t), 0, ErrNameTaken, "another host"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLobby(t)
			l.tokens.hosts["taken"] = Fingerprint{1}
			l.watch.set(noon.Add(c.late))
			token, before := c.token(t, l), l.token
			_, err := l.Admit(t.Context(), address(1), token.Join(c.host, c.csr))
			t.Log(err)
			qt.Assert(t, qt.ErrorIs(err, c.is))
			qt.Assert(t, qt.StringContains(err.Error(), c.says))
			qt.Assert(t, qt.IsFalse(l.used()))
			if c.late == 0 && name != "unknown" && name != "no ID" {
				_, err = l.Admit(t.Context(), address(1), before.Join("b", newRequest(t)))
				qt.Assert(t, qt.IsNil(err))
			}
		})
	}
}

// TestAdmitAgain has a host ask again whose answer was lost, or whose Take had an unknown end.
func TestAdmitAgain(t *testing.T) {
	for name, fail := range map[string]func(*tokens, error){
		"the answer was lost":    func(*tokens, error) {},
		"it was taken, not told": func(s *tokens, err error) { s.after = err },
		"it was not taken":       func(s *tokens, err error) { s.before = err },
	} {
		t.Run(name, func(t *testing.T) {
			l, dir := newLobby(t), t.TempDir()
			lost := errors.New("no answer of the directory")
			fail(l.tokens, lost)
			csr, err := Request(dir)
			qt.Assert(t, qt.IsNil(err))
			chain, err := l.Admit(t.Context(), address(1), l.token.Join("b", csr))
			if err != nil {
				qt.Assert(t, qt.ErrorIs(err, lost))
				qt.Assert(t, qt.HasLen(chain, 0))
			}
			l.tokens.before, l.tokens.after = nil, nil

			l.watch.set(noon.Add(59 * time.Minute))
			again, err := Request(dir) // after a crash of the host that joins, say
			qt.Assert(t, qt.IsNil(err))
			chain, err = l.Admit(t.Context(), address(1), l.token.Join("b", again))
			qt.Assert(t, qt.IsNil(err))
			b, err := Accept(dir, Grant{Chain: chain, Host: "b", CA: l.token.CA}, l.watch.now)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(l.tokens.hosts["b"].Member(), b.Member()))

			l.watch.set(noon.Add(61 * time.Minute))
			_, err = l.Admit(t.Context(), address(1), l.token.Join("b", again))
			qt.Assert(t, qt.ErrorIs(err, ErrTokenExpired))
		})
	}
}

// TestAdmitAtOnce has many hosts use one token at the same moment: one is admitted, and as often
// as it asks.
func TestAdmitAtOnce(t *testing.T) {
	l := newLobby(t)
	const hosts, times = 20, 3
	type answer struct {
		host int
		err  error
	}
	answers := make(chan answer, hosts*times)
	for host := range hosts {
		csr := newRequest(t)
		for range times {
			go func() {
				chain, err := l.Admit(t.Context(), address(host), l.token.Join(fmt.Sprint("b", host), csr))
				if err == nil {
					_, err = x509.ParseCertificates(chain)
				}
				answers <- answer{host, err}
			}()
		}
	}
	admitted := make(map[int]int)
	for range hosts * times {
		a := <-answers
		if a.err == nil {
			admitted[a.host]++
		} else {
			qt.Check(t, qt.ErrorIs(a.err, ErrTokenUsed))
		}
	}
	qt.Assert(t, qt.HasLen(admitted, 1))
	for host, n := range admitted {
		qt.Assert(t, qt.Equals(n, times))
		qt.Assert(t, qt.Equals(l.tokens.records[l.token.ID].Used.Host, fmt.Sprint("b", host)))
	}
}

// TestGuessing tries secrets as fast as a source may, and then invites whom it was in the way of.
func TestGuessing(t *testing.T) {
	l, csr := newLobby(t), newRequest(t)
	guess := l.invite(t)
	guess.ID = l.token.ID
	tries := 0
	for at := time.Duration(0); at < time.Minute; at += 10 * time.Millisecond {
		l.watch.set(noon.Add(at))
		_, err := l.Admit(t.Context(), address(1), guess.Join("b", csr))
		if limited, ok := errors.AsType[*RateLimitedError](err); ok {
			qt.Assert(t, qt.ErrorIs(err, ErrRateLimited))
			qt.Assert(t, qt.IsTrue(limited.Wait > 0 && limited.Wait <= sourceEvery))
			qt.Assert(t, qt.ErrorMatches(err, "too many hosts have asked to join: try again in [1-3]s"))
			continue
		}
		qt.Assert(t, qt.ErrorIs(err, ErrTokenUnknown))
		tries++
	}
	qt.Assert(t, qt.Equals(tries, sourceBurst+int(time.Minute/sourceEvery)-1))
	_, err := l.Admit(t.Context(), address(2), l.token.Join("b", csr))
	qt.Assert(t, qt.IsNil(err))
}

// TestLimits asks from more sources than are remembered.
func TestLimits(t *testing.T) {
	l, now := newLimits(), noon
	passed := 0
	for n := range 3 * maxSources {
		if l.try(address(n), now) == 0 {
			passed++
		}
	}
	qt.Assert(t, qt.Equals(passed, allBurst))
	qt.Assert(t, qt.Equals(len(l.sources), maxSources))
	// What all share is back after a while, and what was refused took nothing of it.
	now = now.Add(allBurst * allEvery)
	passed = 0
	for n := range 2 * allBurst {
		if l.try(address(n), now) == 0 {
			passed++
		}
	}
	qt.Assert(t, qt.Equals(passed, allBurst))

	for name, c := range map[string]struct {
		a, b string
		same bool
	}{
		"IPv4":                  {"192.0.2.1", "192.0.2.2", false},
		"IPv4 in IPv6":          {"192.0.2.1", "::ffff:192.0.2.1", true},
		"one /64":               {"2001:db8::1", "2001:db8::ffff:2", true},
		"two /64":               {"2001:db8::1", "2001:db8:0:1::1", false},
		"link-local, two zones": {"fe80::1%eth0", "fe80::1%eth1", true},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Assert(t, qt.Equals(network(netip.MustParseAddr(c.a)) == network(netip.MustParseAddr(c.b)), c.same))
		})
	}
	qt.Assert(t, qt.Equals(network(netip.Addr{}), netip.Prefix{}))
}
