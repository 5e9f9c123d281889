package cargo_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/cargo"
)

// BenchmarkTransfer sends memory by a stream that costs nothing: what reading, compressing, writing, digests and
// the disk allow.
func BenchmarkTransfer(b *testing.B) {
	needRoot(b)
	const size = 128 << 20
	half := random(size)
	for i := 0; i < size; i += 8 { // as pointers and small numbers are
		copy(half[i:i+4], []byte{1, 0, 0, 0})
	}
	for name, pages := range map[string][]byte{"random": random(size), "half": half, "zeros": make([]byte, size)} {
		b.Run(name, func(b *testing.B) {
			source := newHost(b, b.TempDir())
			s := source.take(b, "s", data{root: b.TempDir(), memory: [][]byte{pages}})
			b.SetBytes(size)
			for range b.N {
				b.StopTimer()
				target := newHost(b, b.TempDir())
				x, y := newWires(b)
				b.StartTimer()
				var both sync.WaitGroup
				var sendErr, gotErr error
				both.Go(func() { _, sendErr = cargo.Send(b.Context(), x, s, source.Stores, cargo.SendOptions{}) })
				both.Go(func() {
					var got *cargo.Received
					if got, gotErr = cargo.Receive(b.Context(), y, target.Stores, cargo.ReceiveOptions{Place: placeAt(target, "s")}); gotErr == nil {
						got.Release()
					}
				})
				both.Wait()
				qt.Assert(b, qt.IsNil(errors.Join(sendErr, gotErr)))
			}
		})
	}
}
