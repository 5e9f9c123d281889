package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// manySockets makes a dump with n inet sockets out of one real one, and
// returns a key for each.
func manySockets(tb testing.TB, n int) (images string, keys map[uint64]string) {
	tb.Helper()
	images = imagetest.Dump(tb, "plain")
	var socket *fdinfo.FileEntry
	for _, file := range imagetest.Load[fdinfo.FileEntry](tb, images, "files.img") {
		if file.GetIsk() != nil {
			socket = file
		}
	}
	keys = make(map[uint64]string, n)
	files, fds := &Image{Type: TypeFiles}, &Image{Type: TypeFdinfo}
	for i := range uint32(n) {
		id, ino := 1000+i, 100000+i
		socket.Id, socket.Isk.Id, socket.Isk.Ino = &id, &id, &ino
		msg, err := proto.Marshal(socket)
		qt.Assert(tb, qt.IsNil(err))
		files.Records = append(files.Records, Record{Message: msg})
		msg, err = proto.Marshal(&fdinfo.FdinfoEntry{Id: &id, Flags: new(uint32), Type: fdinfo.FdTypes_INETSK.Enum(), Fd: &i})
		qt.Assert(tb, qt.IsNil(err))
		fds.Records = append(fds.Records, Record{Message: msg})
		keys[uint64(ino)] = fmt.Sprintf("%08x-app", ino)
	}
	qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(images, "files.img"), files.Encode(), 0o600)))
	qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(images, "fdinfo-2.img"), fds.Encode(), 0o600)))
	return images, keys
}

// BenchmarkReplaceSockets is the part of a wake that this package adds: make
// the view, and edit it.
func BenchmarkReplaceSockets(b *testing.B) {
	for _, n := range []int{1, 100, 1000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			images, keys := manySockets(b, n)
			dir := filepath.Join(b.TempDir(), "view")
			for b.Loop() {
				v, err := NewView(b.Context(), images, dir)
				qt.Assert(b, qt.IsNil(err))
				got, err := v.ReplaceSockets(b.Context(), keys)
				qt.Assert(b, qt.IsNil(err))
				qt.Assert(b, qt.HasLen(got, n))
				b.StopTimer()
				qt.Assert(b, qt.IsNil(v.Remove()))
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/1000, "ms/view")
		})
	}
}

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

func BenchmarkInspect(b *testing.B) {
	images := imagetest.Dump(b, "sandbox")
	b.ReportAllocs()
	for b.Loop() {
		_, err := Inspect(b.Context(), images)
		qt.Assert(b, qt.IsNil(err))
	}
}

func BenchmarkVerify(b *testing.B) {
	images := imagetest.Dump(b, "sandbox")
	b.ReportAllocs()
	for b.Loop() {
		qt.Assert(b, qt.IsNil(Verify(b.Context(), images)))
	}
}
