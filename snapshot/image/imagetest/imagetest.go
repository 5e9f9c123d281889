// Package imagetest has dumps that CRIU made, for the tests of all packages that
// read or edit images, and what such tests compare.
//
// The dumps are in testdata, where make.sh makes them anew: "plain" is an app with
// namespaces for processes, network, IPC and host name, "sandbox" one that also has
// its own mounts and clocks. The memory pages are not kept, only their size.
//
// The package shares no code with those that are tested.
package imagetest

import (
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	sk_packet "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-packet"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"
)

//go:embed testdata/plain testdata/sandbox
var testdata embed.FS

// Names lists the dumps.
func Names(tb testing.TB) []string {
	tb.Helper()
	entries, err := testdata.ReadDir("testdata")
	qt.Assert(tb, qt.IsNil(err))
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	qt.Assert(tb, qt.Not(qt.HasLen(names, 0)))
	return names
}

// FS returns a dump, to be changed at will. Its memory pages are zeros.
func FS(tb testing.TB, name string) fstest.MapFS {
	tb.Helper()
	images := make(fstest.MapFS)
	each(tb, name, func(file string, data []byte) {
		if file != "pages.txt" {
			images[file] = &fstest.MapFile{Data: data}
			return
		}
		for line := range strings.Lines(string(data)) {
			var pages string
			var size int
			_, err := fmt.Sscan(line, &pages, &size)
			qt.Assert(tb, qt.IsNil(err))
			images[pages] = &fstest.MapFile{Data: make([]byte, size)}
		}
	})
	return images
}

// Dump is FS in a directory, which is removed after the test.
func Dump(tb testing.TB, name string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, file := range FS(tb, name) {
		path := filepath.Join(dir, name)
		data := file.Data
		if strings.HasPrefix(name, "pages-") {
			data = nil // holes are enough
		}
		qt.Assert(tb, qt.IsNil(os.WriteFile(path, data, 0o644)))
		qt.Assert(tb, qt.IsNil(os.Truncate(path, int64(len(file.Data)))))
	}
	return dir
}

// EachImage calls fn for every image of every dump, but for memory pages.
func EachImage(tb testing.TB, fn func(name string, data []byte)) {
	tb.Helper()
	for _, name := range Names(tb) {
		each(tb, name, func(file string, data []byte) {
			if !strings.HasSuffix(file, ".txt") {
				fn(path.Join(name, file), data)
			}
		})
	}
}

// each calls fn for every file of a dump.
func each(tb testing.TB, name string, fn func(file string, data []byte)) {
	tb.Helper()
	dir := path.Join("testdata", name)
	entries, err := testdata.ReadDir(dir)
	qt.Assert(tb, qt.IsNil(err))
	for _, entry := range entries {
		data, err := testdata.ReadFile(path.Join(dir, entry.Name()))
		qt.Assert(tb, qt.IsNil(err))
		fn(entry.Name(), data)
	}
}

// Load reads the messages of an image that has two magic numbers. It knows the payload of
// one type of image, sk-queues: the packet behind each message.
func Load[T any, M interface {
	*T
	proto.Message
}](tb testing.TB, dir, name string) []M {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.IsTrue(len(data) >= 8))
	var all []M
	for data = data[8:]; len(data) > 0; {
		size := int(binary.LittleEndian.Uint32(data))
		m := M(new(T))
		qt.Assert(tb, qt.IsNil(proto.Unmarshal(data[4:4+size], m)))
		all = append(all, m)
		data = data[4+size:]
		if packet, ok := any(m).(*sk_packet.SkPacketEntry); ok {
			data = data[packet.GetLength():]
		}
	}
	return all
}

// Listing returns the names in a directory, and the targets of links.
func Listing(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	entries, err := os.ReadDir(dir)
	qt.Assert(tb, qt.IsNil(err))
	got := make(map[string]string)
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if err != nil {
			target = ""
		}
		got[entry.Name()] = target
	}
	return got
}

// Digests returns a digest of each file in a directory.
func Digests(tb testing.TB, dir string) map[string][sha256.Size]byte {
	tb.Helper()
	sums := make(map[string][sha256.Size]byte)
	for name := range Listing(tb, dir) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		qt.Assert(tb, qt.IsNil(err))
		sums[name] = sha256.Sum256(data)
	}
	return sums
}

// Edited returns which files of a view are not those of the dump in images any more.
func Edited(tb testing.TB, view, images string) []string {
	tb.Helper()
	var names []string
	for name := range Listing(tb, view) {
		mine, err := os.Stat(filepath.Join(view, name))
		qt.Assert(tb, qt.IsNil(err))
		theirs, err := os.Stat(filepath.Join(images, name))
		if !errors.Is(err, fs.ErrNotExist) {
			qt.Assert(tb, qt.IsNil(err))
		}
		if err != nil || !os.SameFile(mine, theirs) {
			names = append(names, name)
		}
	}
	return names
}
