package holder_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/holder"
)

// BenchmarkPut reports what handing an app's sockets over costs while the app is
// frozen.
func BenchmarkPut(b *testing.B) {
	c, _, _ := spawn(b)
	for _, n := range []int{1, 64, 1000} {
		items := make([]holder.Item, n)
		for i := range items {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			qt.Assert(b, qt.IsNil(err))
			meta := fmt.Sprintf(`{"inode":%d,"kind":"tcp","family":2,"proto":6,"state":"ESTABLISHED","local":"10.77.0.7:6379"}`, i)
			items[i] = holder.Item{Key: fmt.Sprintf("%x.socket", i), File: os.NewFile(uintptr(fd), "s"), Meta: []byte(meta)}
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				qt.Assert(b, qt.IsNil(c.Put(b.Context(), "app", items)))
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*n), "us/fd")
		})
		qt.Assert(b, qt.IsNil(holder.CloseAll(items)))
	}
}
