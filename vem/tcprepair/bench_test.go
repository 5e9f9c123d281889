package tcprepair_test

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/tcprepair"
)

// BenchmarkSave saves both ends of a connection with empty queues: the app is frozen
// meanwhile.
func BenchmarkSave(b *testing.B) {
	p := newWorld(b).pair(local)
	for b.Loop() {
		if _, err := trySave(p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRestore makes such a connection again and lets it go on.
func BenchmarkRestore(b *testing.B) {
	p := newWorld(b).pair(local)
	saved := save(b, p)
	w := newWorld(b)
	for b.Loop() {
		w.do(func() error {
			r, err := saved.Restore()
			if err != nil {
				return err
			}
			return r.Close()
		})
	}
}

// BenchmarkDecode reads a thousand of them.
func BenchmarkDecode(b *testing.B) {
	c := save(b, newWorld(b).pair(local))
	var all tcprepair.Saved
	for range 1000 {
		all.Connections = append(all.Connections, c)
	}
	data := tcprepair.Encode(all)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		_, err := tcprepair.Decode(data)
		qt.Assert(b, qt.IsNil(err))
	}
}
