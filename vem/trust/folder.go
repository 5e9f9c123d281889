package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// folder is a directory with files that have private keys: 0700, the files 0600.
type folder string

// half is the suffix of a file that is being written. One that a crash left says nothing.
const half = ".new"

// maxFile is the size in bytes that no file of a folder has: a key and two certificates are
// less than 3 KiB.
const maxFile = 64 << 10

func (d folder) path(name string) string { return filepath.Join(string(d), name) }

// write puts a file, or replaces it. If it fails the old file is there as it was, or the new one.
func (d folder) write(name string, data []byte) error { return d.place(name, data, 0) }

// create puts a file, and fails with an error wrapping fs.ErrExist if there is one.
func (d folder) create(name string, data []byte) error {
	return d.place(name, data, unix.RENAME_NOREPLACE)
}

// place writes a file aside and renames it. The directory is locked meanwhile: two writers would
// write the same file aside.
func (d folder) place(name string, data []byte, flags uint) (err error) {
	path := d.path(name)
	if err = os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	dir, err := d.lock()
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }() // which unlocks it
	f, err := os.OpenFile(path+half, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = rename(path+half, path, flags)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(path+half))
	}
	return dir.Sync() // a rename survives a power cut only after it: fsync(2), NOTES
}

// lock opens the directory and locks it against other writers, until it is closed.
func (d folder) lock() (*os.File, error) {
	dir, err := os.Open(string(d))
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", d, err), dir.Close())
	}
	return dir, nil
}

// rename renames a file. With RENAME_NOREPLACE it fails if there is one of the new name, also on
// a file system that does not know that flag (NFS, say; see rename(2)).
func rename(from, to string, flags uint) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if _, err := os.Lstat(to); err == nil {
		return fs.ErrExist
	}
	return os.Rename(from, to)
}

// remove removes a file if it is there. It may be there again after a power cut.
func (d folder) remove(name string) error {
	if err := os.Remove(d.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// read reads a file. Returns an error wrapping fs.ErrNotExist if there is none, and refuses one
// that others than its owner may read.
func (d folder) read(name string) ([]byte, error) {
	info, err := os.Stat(d.path(name))
	switch {
	case err != nil:
		return nil, err
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s has a private key and mode %04o: only its owner may read it (chmod 600), and whoever could read it may have it", d.path(name), info.Mode().Perm())
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s is %w: it has %d bytes", d.path(name), ErrDamaged, info.Size())
	}
	return os.ReadFile(d.path(name))
}

// pair is a private key with its certificate, and the certificates above it.
type pair struct {
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate // empty if it has not been signed
}

// newKey makes a private key.
func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// fingerprint returns that of the public key.
func (p pair) fingerprint() (Fingerprint, error) {
	spki, err := x509.MarshalPKIXPublicKey(p.key.Public())
	return fingerprint(spki), err
}

const (
	keyBlock  = "PRIVATE KEY" // PKCS #8
	certBlock = "CERTIFICATE"
)

// encode writes a pair as PEM blocks: the key, if there is one, then the certificates.
func (p pair) encode() (out []byte, err error) {
	if p.key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(p.key)
		if err != nil {
			return nil, fmt.Errorf("encode key: %w", err)
		}
		out = pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})
	}
	for _, c := range p.chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: c.Raw})...)
	}
	return out, nil
}

// decode reads what encode wrote. The first certificate, if there is one, is that of the key.
func decode(data []byte) (p pair, err error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		switch block.Type {
		case keyBlock:
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return pair{}, fmt.Errorf("read key: %w", err)
			}
			var ok bool
			if p.key, ok = key.(*ecdsa.PrivateKey); !ok {
				return pair{}, fmt.Errorf("its key is a %T", key)
			}
		case certBlock:
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return pair{}, fmt.Errorf("read certificate: %w", err)
			}
			p.chain = append(p.chain, cert)
		}
	}
	switch {
	case len(data) > 0:
		return pair{}, fmt.Errorf("its last %d bytes are no PEM block", len(data))
	case p.key == nil:
		return pair{}, errors.New("it has no private key")
	case len(p.chain) > 0 && !p.key.PublicKey.Equal(p.chain[0].PublicKey):
		return pair{}, errors.New("its certificate is not that of its key")
	}
	return p, nil
}

// load reads a pair from a file, and tells which file is damaged.
func (d folder) load(name string) (pair, error) {
	data, err := d.read(name)
	if err != nil {
		return pair{}, err
	}
	p, err := decode(data)
	if err != nil {
		return pair{}, fmt.Errorf("%s is %w: %w", d.path(name), ErrDamaged, err)
	}
	return p, nil
}

// store writes a pair to a file.
func (d folder) store(name string, p pair) error {
	data, err := p.encode()
	if err != nil {
		return err
	}
	return d.write(name, data)
}
