package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// A record is JSON that has its own digest for a first field: of its text without the
// line of that field. Damage that leaves it JSON is noticed too.

// ErrSeal is a record that is not as it was written.
var ErrSeal = errors.New(`it was changed since it was written: put the right one back, or take out its line "sha256" to have it used as it is`)

var (
	sealBegin = []byte("{\n  \"sha256\": \"")
	sealEnd   = []byte("\",\n")
)

// seal puts the digest into an indented JSON object that has fields.
func seal(b []byte) []byte {
	sum := sha256.Sum256(b)
	head := append(hex.AppendEncode(bytes.Clone(sealBegin), sum[:]), sealEnd...)
	return append(head, bytes.TrimPrefix(b, []byte("{\n"))...)
}

// unseal checks the digest and returns the text without it. One that has none is of an
// older snapctl, or was changed on purpose. Returns an error wrapping ErrSeal.
func unseal(b []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(b, sealBegin)
	if !ok {
		return b, nil
	}
	sum, rest, ok := bytes.Cut(rest, sealEnd)
	if !ok {
		return nil, ErrSeal
	}
	text := append([]byte("{\n"), rest...)
	got := sha256.Sum256(text)
	if hex.EncodeToString(got[:]) != string(sum) {
		return nil, ErrSeal
	}
	return text, nil
}
