package openfile

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
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
	files, fds := &image.Image{Type: image.TypeFiles}, &image.Image{Type: image.TypeFdinfo}
	for i := range uint32(n) {
		id, ino := 1000+i, 100000+i
		socket.Id, socket.Isk.Id, socket.Isk.Ino = &id, &id, &ino
		msg, err := proto.Marshal(socket)
		qt.Assert(tb, qt.IsNil(err))
		files.Records = append(files.Records, image.Record{Message: msg})
		msg, err = proto.Marshal(&fdinfo.FdinfoEntry{Id: &id, Flags: new(uint32), Type: fdinfo.FdTypes_INETSK.Enum(), Fd: &i})
		qt.Assert(tb, qt.IsNil(err))
		fds.Records = append(fds.Records, image.Record{Message: msg})
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
				v, err := image.NewView(b.Context(), images, dir)
				qt.Assert(b, qt.IsNil(err))
				got, err := ReplaceSockets(b.Context(), v, keys)
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
