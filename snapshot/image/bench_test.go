package image

import (
	"bytes"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// bigPagemap makes the pagemap image of 1 GiB of scattered memory: every other
// page is stored.
func bigPagemap(tb testing.TB) []byte {
	tb.Helper()
	const extents = 1 << 17
	img := &Image{Type: TypePagemap, Records: make([]Record, 0, 1+extents)}
	img.Records = append(img.Records, Record{Message: wire.AppendVarint(nil, 1, 1)})
	for i := range uint64(extents) {
		msg := wire.AppendVarint(nil, 1, 0x7f0000000000+i*2*PageSize)
		msg = wire.AppendVarint(msg, 2, 0) // as CRIU 4.2 does
		msg = wire.AppendVarint(msg, 4, PagePresent)
		msg = wire.AppendVarint(msg, 5, 1)
		img.Records = append(img.Records, Record{Message: msg})
	}
	return img.Encode()
}

func BenchmarkPagemap(b *testing.B) {
	data := bigPagemap(b)
	img, err := Decode(data)
	qt.Assert(b, qt.IsNil(err))
	for name, fn := range map[string]func() error{
		"decode": func() error { _, err := Decode(data); return err },
		"parse":  func() error { _, err := ParsePagemap(img); return err },
		"encode": func() error { img.Encode(); return nil },
		"walk": func() error {
			var p pagemapBuilder
			_, err := walk(bytes.NewReader(data), int64(len(data)), func(_ Type, msg []byte, _ uint64) error { return p.add(msg) })
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				qt.Assert(b, qt.IsNil(fn()))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(img.Records)), "ns/extent")
		})
	}
}
