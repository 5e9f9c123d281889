package cargo_test

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/snapshot"
)

// script is a stream whose other side says what stands in it, and hears nothing.
type script struct{ rest []byte }

func (s *script) Send([]byte) error { return nil }
func (s *script) CloseSend() error  { return nil }
func (s *script) Close()            {}

func (s *script) Recv() ([]byte, error) {
	n, size := binary.Uvarint(s.rest)
	if size <= 0 || n > uint64(len(s.rest)-size) || n > 64<<10 {
		return nil, io.EOF
	}
	m := s.rest[size : size+int(n)]
	s.rest = s.rest[size+int(n):]
	return m, nil
}

// record returns what both sides of a transfer say, each as a script.
func record(tb testing.TB, from, to *hosted, what string) (source, target []byte) {
	tb.Helper()
	write := func(into *[]byte) func(int, []byte) ([]byte, error) {
		return func(_ int, m []byte) ([]byte, error) {
			*into = append(binary.AppendUvarint(*into, uint64(len(m))), m...)
			return m, nil
		}
	}
	x, y := newWires(tb)
	x.each, y.each = write(&source), write(&target)
	done := make(chan error, 1)
	go func() {
		got, err := cargo.Receive(tb.Context(), y, to.Stores, cargo.ReceiveOptions{Place: placeAt(to, "s")})
		if err == nil {
			got.Release()
		}
		done <- err
	}()
	_, err := cargo.Send(tb.Context(), x, from.snapshot(what), from.Stores, cargo.SendOptions{})
	qt.Assert(tb, qt.IsNil(errors.Join(err, <-done)))
	return source, target
}

// FuzzTransfer has each side hear nonsense: nothing is left then, and nobody panics.
func FuzzTransfer(f *testing.F) {
	needRoot(f)
	a, b := newHost(f, f.TempDir()), newHost(f, f.TempDir())
	d := data{root: f.TempDir(), memory: [][]byte{append(random(100), make([]byte, 5000)...)}, layers: []func(string) error{fillLayer("x")}}
	s := a.take(f, "s", d)
	source, target := record(f, a, newHost(f, f.TempDir()), "s")
	f.Add(source, true)
	f.Add(target, false)
	for i := 10; i < len(source); i += len(source) / 20 {
		m := append([]byte(nil), source...)
		m[i] ^= 1
		f.Add(m, true)
		f.Add(source[:i], true)
	}
	f.Fuzz(func(t *testing.T, said []byte, bySource bool) {
		stream := &script{said}
		if !bySource {
			_, _ = cargo.Send(t.Context(), stream, s, a.Stores, cargo.SendOptions{})
			return
		}
		place := func(m *snapshot.Manifest) (string, error) {
			size := int64(0)
			for _, f := range m.Memory {
				size += f.SizeBytes
			}
			for i := range m.Files {
				size += m.Files[i].SizeBytes
			}
			for i := range m.HostFiles {
				size += m.HostFiles[i].SizeBytes
			}
			for _, l := range m.Layers {
				size += l.SizeBytes
			}
			if size > 256<<20 {
				return "", errors.New("to read so many zeros takes too long")
			}
			return placeAt(b, "s")(m)
		}
		got, err := cargo.Receive(t.Context(), stream, b.Stores, cargo.ReceiveOptions{Place: place})
		if err == nil {
			got.Release()
			b.check(t, got.Dir)
			qt.Assert(t, qt.IsNil(got.Dir.Remove()))
		}
		b.sweep(t)
		qt.Assert(t, qt.HasLen(b.all(t), 0))
	})
}
