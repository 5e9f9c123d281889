package cargo_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/testenv"
)

// hosted is the state directory of a host.
type hosted struct {
	dir string
	cargo.Stores
}

func newHost(tb testing.TB, dir string) *hosted {
	tb.Helper()
	h := &hosted{dir: dir}
	var err [4]error
	h.Memory, err[0] = memory.Open(filepath.Join(dir, "memory"))
	h.Layers, err[1] = layer.Open(filepath.Join(dir, "layers"))
	h.HostFiles, err[2] = hostfile.Open(filepath.Join(dir, "files"))
	err[3] = os.MkdirAll(filepath.Join(dir, "snapshots"), 0o700)
	qt.Assert(tb, qt.IsNil(errors.Join(err[:]...)))
	return h
}

func (h *hosted) snapshot(name string) snapshot.Dir {
	return snapshot.Dir(filepath.Join(h.dir, "snapshots", name))
}

// all lists what is in the stores and among the snapshots, whatever it is called.
func (h *hosted) all(tb testing.TB) (names []string) {
	tb.Helper()
	for _, dir := range []string{"memory", "layers", "files", "snapshots"} {
		entries, err := os.ReadDir(filepath.Join(h.dir, dir))
		qt.Assert(tb, qt.IsNil(err))
		for _, e := range entries {
			names = append(names, dir+"/"+e.Name())
		}
	}
	return names
}

// sweep removes what no snapshot of the host names.
func (h *hosted) sweep(tb testing.TB) {
	tb.Helper()
	mem, lay, files := map[memory.ID]bool{}, map[memory.ID]bool{}, map[memory.ID]bool{}
	entries, err := os.ReadDir(filepath.Join(h.dir, "snapshots"))
	qt.Assert(tb, qt.IsNil(err))
	for _, e := range entries {
		m, err := h.snapshot(e.Name()).Manifest()
		qt.Assert(tb, qt.IsNil(err))
		for _, f := range m.Memory {
			mem[f.ID] = true
		}
		for _, l := range m.Layers {
			lay[l.ID] = true
		}
		for _, f := range m.HostFiles {
			files[f.ID] = true
		}
	}
	_, err1 := h.Memory.Sweep(func() (map[memory.ID]bool, error) { return mem, nil })
	_, err2 := h.Layers.Sweep(func() (map[memory.ID]bool, error) { return lay, nil })
	_, err3 := h.HostFiles.Sweep(func() (map[memory.ID]bool, error) { return files, nil })
	qt.Assert(tb, qt.IsNil(errors.Join(err1, err2, err3)))
}

// check proves that a snapshot is whole, by every byte.
func (h *hosted) check(tb testing.TB, d snapshot.Dir) *snapshot.Manifest {
	tb.Helper()
	m, err := d.Open(tb.Context(), snapshot.ByDigest, h.Memory)
	qt.Assert(tb, qt.IsNil(err))
	for _, l := range m.Layers {
		qt.Assert(tb, qt.IsNil(h.Layers.Check(tb.Context(), l, memory.ByDigest)))
	}
	for i := range m.HostFiles {
		qt.Assert(tb, qt.IsNil(h.HostFiles.Check(tb.Context(), &m.HostFiles[i], memory.ByDigest)))
	}
	return m
}

// data is what a saved app consists of.
type data struct {
	memory [][]byte
	layers []func(dir string) error // that fill them, the topmost first
	files  map[string]string        // kept files, by path
	root   string                   // the lower root, that has them
}

// random is what does not shrink.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return b
}

// ordinary is a snapshot that has one of each.
func ordinary(tb testing.TB) data {
	tb.Helper()
	pages := make([]byte, 40<<20)
	copy(pages[3<<20:], random(300<<10))
	copy(pages[20<<20+100:], "a page that is nearly empty")
	root := tb.TempDir()
	qt.Assert(tb, qt.IsNil(os.MkdirAll(filepath.Join(root, "usr/lib"), 0o755)))
	qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(root, "usr/lib/libc.so.6"), random(70<<10), 0o755)))
	return data{
		memory: [][]byte{pages, []byte("a short one")},
		layers: []func(string) error{fillLayer("top"), fillLayer("bottom")},
		files:  map[string]string{"/usr/lib/libc.so.6": root}, root: root,
	}
}

// fillLayer makes files of every kind.
func fillLayer(text string) func(string) error {
	return func(dir string) error {
		at := func(name string) string { return filepath.Join(dir, name) }
		errs := []error{
			os.MkdirAll(at("etc/app"), 0o750), os.WriteFile(at("etc/app/conf"), []byte(text), 0o640),
			os.WriteFile(at("etc/app/short"), []byte(strings.Repeat("a short line\n", 19)), 0o644), // 247 bytes that compress well
			os.Link(at("etc/app/conf"), at("etc/other")), os.Symlink("app/conf", at("etc/link")),
			unix.Mknod(at("etc/gone"), unix.S_IFCHR, 0), unix.Mknod(at("etc/fifo"), unix.S_IFIFO|0o600, 0), unix.Mknod(at("etc/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
			os.WriteFile(at("etc/suid"), random(200<<10), 0o755), os.Lchown(at("etc/suid"), 7, 8), unix.Chmod(at("etc/suid"), 0o4755),
			unix.Setxattr(at("etc/suid"), "trusted.test", []byte{0, 1, 255}, 0),
			unix.Setxattr(at("etc/app"), "trusted.overlay.opaque", []byte("y"), 0),
			os.WriteFile(at("etc/sparse"), nil, 0o600), os.Truncate(at("etc/sparse"), 64<<20),
			os.WriteFile(at("etc/meta"), nil, 0o600), os.Truncate(at("etc/meta"), 4<<20),
			unix.Setxattr(at("etc/meta"), "trusted.overlay.metacopy", nil, 0),
			os.WriteFile(at("etc/\xff\xfe not utf-8"), []byte("x"), 0o600),
			unix.UtimesNanoAt(unix.AT_FDCWD, at("etc/app"), []unix.Timespec{{Sec: 9}, {Sec: 1_000_000_007, Nsec: 42}}, 0),
			unix.UtimesNanoAt(unix.AT_FDCWD, at("etc/link"), []unix.Timespec{{Sec: 9}, {Sec: 1_000_000_009, Nsec: 43}}, unix.AT_SYMLINK_NOFOLLOW),
		}
		return errors.Join(errs...)
	}
}

// take makes a snapshot.
func (h *hosted) take(tb testing.TB, name string, d data) snapshot.Dir {
	tb.Helper()
	target := h.snapshot(name)
	p, err := snapshot.Begin(string(target))
	qt.Assert(tb, qt.IsNil(err))
	m := &snapshot.Manifest{
		Name: name, App: "web", WithStorage: true,
		Spec: &specs.Spec{Process: &specs.Process{Args: []string{"true"}}, Root: &specs.Root{Path: d.root}},
	}
	write := func(name string, b []byte) {
		tb.Helper()
		path := filepath.Join(string(p.Dir()), name)
		qt.Assert(tb, qt.IsNil(os.MkdirAll(filepath.Dir(path), 0o700)))
		qt.Assert(tb, qt.IsNil(os.WriteFile(path, b, 0o600)))
	}
	write("images/core-1.img", random(1000))
	write("images/pagemap-1.img", []byte("pages are elsewhere"))
	write("shm/segment", append(make([]byte, 100<<10), "end"...))
	qt.Assert(tb, qt.IsNil(os.Link(filepath.Join(p.Dir().Shm(), "segment"), filepath.Join(p.Dir().Shm(), "again"))))
	qt.Assert(tb, qt.IsNil(os.Lchown(filepath.Join(p.Dir().Shm(), "segment"), 33, 34)))
	for i, b := range d.memory {
		image := "pages-" + string(rune('1'+i)) + ".img"
		from := filepath.Join(h.dir, image)
		qt.Assert(tb, qt.IsNil(os.WriteFile(from, b, 0o600)))
		f, err := h.Memory.Adopt(tb.Context(), from)
		qt.Assert(tb, qt.IsNil(err))
		qt.Assert(tb, qt.IsNil(os.Symlink("../../../memory/"+string(f.ID), filepath.Join(p.Dir().Images(), image))))
		m.Memory = append(m.Memory, snapshot.Memory{File: f, Image: image})
		defer h.Memory.Unpin([]memory.File{f})
	}
	for _, fill := range d.layers {
		tmp, done := h.Layers.Temporary()
		qt.Assert(tb, qt.IsNil(errors.Join(os.Mkdir(tmp, 0o755), fill(tmp))))
		ref, err := h.Layers.Adopt(tb.Context(), tmp)
		qt.Assert(tb, qt.IsNil(errors.Join(err, done())))
		m.Layers = append(m.Layers, ref)
		defer h.Layers.Unpin([]layer.Ref{ref})
	}
	for path, root := range d.files {
		f, err := h.HostFiles.Keep(tb.Context(), hostfile.Wanted{Path: path, Source: filepath.Join(root, path)})
		qt.Assert(tb, qt.IsNil(err))
		m.HostFiles = append(m.HostFiles, f)
		defer h.HostFiles.Unpin([]hostfile.File{f})
	}
	_, err = p.Commit(tb.Context(), m)
	qt.Assert(tb, qt.IsNil(err))
	return target
}

// wire is a stream in memory, one end of it.
type wire struct {
	ctx   context.Context //nolint:containedctx // it lives as long as the stream
	end   context.CancelCauseFunc
	out   chan<- []byte
	in    <-chan []byte
	close sync.Once
	// each may change a message that is sent, or break the stream.
	each func(n int, b []byte) ([]byte, error)
	n    int
}

var errBroken = errors.New("the network is gone")

func newWires(tb testing.TB) (a, b *wire) {
	tb.Helper()
	ctx, end := context.WithCancelCause(tb.Context())
	there, back := make(chan []byte, 4), make(chan []byte, 4)
	return &wire{ctx: ctx, end: end, out: there, in: back}, &wire{ctx: ctx, end: end, out: back, in: there}
}

func (w *wire) Send(b []byte) error {
	b = append([]byte(nil), b...)
	if w.each != nil {
		var err error
		if b, err = w.each(w.n, b); err != nil {
			w.end(err)
			return err
		}
	}
	w.n++
	select {
	case w.out <- b:
		return nil
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
}

func (w *wire) Recv() ([]byte, error) {
	select {
	case b, ok := <-w.in:
		if !ok {
			return nil, io.EOF
		}
		return b, nil
	case <-w.ctx.Done():
		return nil, context.Cause(w.ctx)
	}
}

func (w *wire) CloseSend() error {
	w.close.Do(func() { close(w.out) })
	return nil
}

func (w *wire) Close() { w.end(context.Canceled) }

// outcome is what both sides say of a transfer.
type outcome struct {
	sent     cargo.Report
	sendErr  error
	got      *cargo.Received
	gotErr   error
	messages int // that the source sent
}

// transfer sends a snapshot from one host to another.
func transfer(tb testing.TB, from *hosted, what snapshot.Dir, to *hosted, as string, change func(source, target *wire)) outcome {
	tb.Helper()
	a, b := newWires(tb)
	if change != nil {
		change(a, b)
	}
	var o outcome
	var both sync.WaitGroup
	both.Go(func() {
		o.sent, o.sendErr = cargo.Send(tb.Context(), a, what, from.Stores, cargo.SendOptions{})
		if o.sendErr != nil {
			a.Close()
		}
	})
	both.Go(func() {
		o.got, o.gotErr = cargo.Receive(tb.Context(), b, to.Stores, cargo.ReceiveOptions{Place: placeAt(to, as)})
		if o.gotErr != nil {
			b.Close()
		}
	})
	both.Wait()
	o.messages = a.n
	return o
}

func placeAt(h *hosted, name string) func(*snapshot.Manifest) (string, error) {
	return func(m *snapshot.Manifest) (string, error) {
		m.Name = name
		return string(h.snapshot(name)), nil
	}
}

func needRoot(tb testing.TB) {
	tb.Helper()
	testenv.Need(tb, testenv.Root)
}
