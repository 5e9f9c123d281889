package wireguard

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Secret is what the keys of this host's networks are made from.
type Secret [32]byte

// LoadSecret reads a host's secret from a file, and makes it if there is none.
func LoadSecret(path string) (s Secret, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeSecret(path)
	}
	if err != nil {
		return s, fmt.Errorf("read secret of WireGuard: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(raw) != len(s) {
		return s, fmt.Errorf("read secret of WireGuard: %s does not have %d bytes in base64: remove it, and another one is made", path, len(s))
	}
	copy(s[:], raw)
	return s, nil
}

// makeSecret writes the file aside and renames it: there is a whole one or none.
func makeSecret(path string) (s Secret, err error) {
	_, _ = rand.Read(s[:]) // never fails (crypto/rand, since Go 1.24)
	aside := path + ".new"
	f, err := os.OpenFile(aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(base64.StdEncoding.EncodeToString(s[:]) + "\n")
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(aside, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return Secret{}, errors.Join(fmt.Errorf("write secret of WireGuard: %w", err), os.RemoveAll(aside))
	}
	return s, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// key is the private key of a network on this host.
func (s *Secret) key(network string) (wgtypes.Key, error) {
	b, err := hkdf.Key(sha256.New, s[:], nil, "snapctl wireguard "+network, wgtypes.KeyLen)
	if err != nil {
		return wgtypes.Key{}, fmt.Errorf("make WireGuard key of network %s: %w", network, err)
	}
	// A private key has some bits that are fixed (RFC 7748, 5).
	b[0] &= 248
	b[31] = b[31]&127 | 64
	return wgtypes.NewKey(b)
}
