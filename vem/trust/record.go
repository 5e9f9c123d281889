package trust

import (
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"time"
)

// Record is what the directory stores of a token, as JSON. It does not have the secret: who
// reads the directory can't join by it.
type Record struct {
	ID         TokenID     `json:"id"`
	SecretHash Fingerprint `json:"secret_sha256"` // of the secret's bytes
	Made       time.Time   `json:"made"`
	MadeBy     string      `json:"made_by"` // the host that invited
	Expires    time.Time   `json:"expires"`
	Used       *Use        `json:"used,omitempty"` // nil: not used yet
}

// Use is by whom a token was used up.
type Use struct {
	Host string `json:"host"`
	// Key is the fingerprint of the key of the host's CSR: a host whose answer was lost asks
	// again with this key.
	Key Fingerprint `json:"key_sha256"`
	At  time.Time   `json:"at"`
}

// Same tells whether two uses are by one host with one key, at whatever time.
func (u Use) Same(other Use) bool { return u.Host == other.Host && u.Key == other.Key }

// Fits tells, in constant time, whether a secret is that of the token.
func (r Record) Fits(s Secret) bool {
	have := s.hash()
	return s.reveal != nil && subtle.ConstantTimeCompare(have[:], r.SecretHash[:]) == 1
}

// MarshalText returns 64 hexadecimal digits.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (f *Fingerprint) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(f) {
		return fmt.Errorf("%.80q is not a SHA-256 in hexadecimal digits", text)
	}
	copy(f[:], b)
	return nil
}
