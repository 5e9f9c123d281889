package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
)

// ErrTokenMalformed is that a text is not a token: a part is missing, or it has a mistake.
var ErrTokenMalformed = errors.New("not a token")

// TokenID names a token: its first 16 characters after the prefix. It may be shown and logged.
type TokenID string

// Valid tells whether a token could have this ID.
func (id TokenID) Valid() bool {
	b, err := base.DecodeString(string(id))
	return err == nil && len(b) == idBytes && base.EncodeToString(b) == string(id)
}

// A token is tokenPrefix and the base32 (RFC 4648, section 6, in lower case) of 65 bytes: the
// ID, the secret, the fingerprint of the CA, and the beginning of the SHA-256 of what is before.
// Each part but the last two is a whole number of characters.
const (
	tokenPrefix = "snapctl1-"
	idBytes     = 10
	secretBytes = 20
	sumBytes    = 3
	tokenBytes  = idBytes + secretBytes + sha256.Size + sumBytes
)

var base = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Secret is what a host proves by that it was invited: 20 random bytes. However it is printed
// or logged, it is not shown; [Secret.Bytes] is the only way to it.
type Secret struct {
	// A function, since fmt asks no method of a field that is not exported, of whatever struct
	// has a Secret: it would print an array, and with a verb that does not fit also what a
	// pointer leads to (fmt/print.go, badVerb).
	reveal func() [secretBytes]byte
}

// SecretOf returns a secret that was sent by another host. Returns an error if b has not the
// length of a secret.
func SecretOf(b []byte) (Secret, error) {
	if len(b) != secretBytes {
		return Secret{}, fmt.Errorf("%w: its secret has %d bytes, and should have %d", ErrTokenMalformed, len(b), secretBytes)
	}
	secret := [secretBytes]byte(b)
	return Secret{func() [secretBytes]byte { return secret }}, nil
}

// Bytes returns the secret itself, to be sent to the host that is joined. The zero Secret has no
// bytes.
func (s Secret) Bytes() []byte {
	if s.reveal == nil {
		return nil
	}
	secret := s.reveal()
	return secret[:]
}

// Format prints that there is a secret.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue is what a log gets.
func (s Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

const hidden = "(hidden)"

func (s Secret) hash() Fingerprint { return sha256.Sum256(s.Bytes()) }

// Token is an invitation: whoever has it may join an installation once, until it expires. However
// it is printed or logged, its secret is not shown; [Token.Text] is the only way to all of it.
type Token struct {
	// ID is what the [Record] of the token is found by.
	ID TokenID
	// Secret is what the Record has the hash of.
	Secret Secret
	// CA is the fingerprint of the installation's CA: the joining host trusts nobody else.
	CA Fingerprint
}

// NewToken makes a token for the installation whose CA has the fingerprint ca, and the record
// that the directory stores of it. by is the host that invites, and now its clock. ttl is for
// how long the token may be used.
func NewToken(ca Fingerprint, by string, now time.Time, ttl time.Duration) (Token, Record, error) {
	if ttl <= 0 {
		return Token{}, Record{}, fmt.Errorf("make token: it would be valid for %s", ttl)
	}
	// crypto/rand.Read never fails since Go 1.24.
	var id [idBytes]byte
	_, _ = rand.Read(id[:])
	var random [secretBytes]byte
	_, _ = rand.Read(random[:])
	secret := Secret{func() [secretBytes]byte { return random }}
	t := Token{ID: TokenID(base.EncodeToString(id[:])), Secret: secret, CA: ca}
	return t, Record{
		ID: t.ID, SecretHash: secret.hash(),
		Made: now.UTC().Truncate(time.Second), MadeBy: by, Expires: now.Add(ttl).UTC().Truncate(time.Second),
	}, nil
}

// Text returns the token with its secret, as [ParseToken] reads it: to be given to the person
// who joins a host, and to nobody else. The zero Token has no text.
func (t Token) Text() string {
	id, err := base.DecodeString(string(t.ID))
	if err != nil || len(id) != idBytes || t.Secret.reveal == nil {
		return ""
	}
	b := append(append(id, t.Secret.Bytes()...), t.CA[:]...)
	return tokenPrefix + base.EncodeToString(append(b, checksum(b)...))
}

// String returns the token without its secret.
func (t Token) String() string { return tokenPrefix + string(t.ID) + "-" + hidden }

// Format prints what String returns, for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue is what a log gets: what String returns.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText returns what String returns, so that a token is not written anywhere by accident.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// ParseToken reads a token. Upper case and white space, also in the middle, do no harm. Returns
// an error wrapping ErrTokenMalformed that says what is wrong, and shows nothing of the secret.
func ParseToken(text string) (Token, error) {
	text = strings.ToLower(strings.Join(strings.Fields(text), ""))
	data, ok := strings.CutPrefix(text, tokenPrefix)
	switch {
	case text == "":
		return Token{}, fmt.Errorf("%w: it is empty", ErrTokenMalformed)
	case !ok && strings.HasPrefix(text, "snapctl"):
		return Token{}, fmt.Errorf("%w: it does not begin with %q: another version of snapctl has made it, or its beginning is mistyped", ErrTokenMalformed, tokenPrefix)
	case !ok:
		return Token{}, fmt.Errorf("%w: a token begins with %q", ErrTokenMalformed, tokenPrefix)
	}
	if at := strings.IndexFunc(data, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '2' || c > '7') }); at >= 0 {
		return Token{}, fmt.Errorf("%w: character %d is none of a to z and 2 to 7", ErrTokenMalformed, len(tokenPrefix)+at+1)
	}
	if want := base.EncodedLen(tokenBytes); len(data) != want {
		return Token{}, fmt.Errorf("%w: it has %d characters, and a whole token has %d", ErrTokenMalformed, len(text), len(tokenPrefix)+want)
	}
	b, err := base.DecodeString(data)
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrTokenMalformed, err)
	}
	b, sum := b[:tokenBytes-sumBytes], b[tokenBytes-sumBytes:]
	if subtle.ConstantTimeCompare(sum, checksum(b)) != 1 {
		return Token{}, fmt.Errorf("%w: a character is mistyped, or two are exchanged: its checksum does not fit", ErrTokenMalformed)
	}
	secret, err := SecretOf(b[idBytes : idBytes+secretBytes])
	return Token{
		ID: TokenID(base.EncodeToString(b[:idBytes])), Secret: secret,
		CA: Fingerprint(b[idBytes+secretBytes:]),
	}, err
}

// checksum tells a mistyped token from one that nobody knows.
func checksum(b []byte) []byte {
	sum := sha256.Sum256(append([]byte(tokenPrefix), b...))
	return sum[:sumBytes]
}
