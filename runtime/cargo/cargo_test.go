package cargo_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/tree"
)

func pair(t *testing.T) (a, b *hosted) {
	t.Helper()
	needRoot(t)
	return newHost(t, t.TempDir()), newHost(t, t.TempDir())
}

// All arrives as it was, and what is empty costs nothing.
func TestTransfer(t *testing.T) {
	a, b := pair(t)
	d := ordinary(t)
	s := a.take(t, "s", d)
	want := a.check(t, s)
	o := transfer(t, a, s, b, "copy", nil)
	qt.Assert(t, qt.IsNil(errors.Join(o.sendErr, o.gotErr)))
	b.sweep(t)
	o.got.Release()
	b.sweep(t)
	got := b.check(t, b.snapshot("copy"))
	qt.Check(t, qt.Equals(got.Name, "copy"))
	qt.Check(t, qt.Equals(got.App, "web"))
	qt.Check(t, qt.Equals(o.got.Dir, b.snapshot("copy")))
	// Random bytes are sent as they are, and zeros are not.
	qt.Check(t, qt.IsTrue(o.sent.SentBytes < 1<<20), qt.Commentf("%+v", o.sent))
	qt.Check(t, qt.Equals(o.sent.DoneBytes, o.sent.TotalBytes))
	qt.Check(t, qt.Equals(o.sent.Files, o.sent.TotalFiles))
	qt.Check(t, qt.Equals(o.got.Report.DoneBytes, o.sent.TotalBytes))
	qt.Check(t, qt.Equals(o.got.Report.Files, o.sent.Files))
	qt.Check(t, qt.Equals(o.got.Report.SavedBytes, o.sent.SavedBytes))
	qt.Check(t, qt.Equals(o.sent.SavedBytes, 70<<10)) // the target has the same library
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Lstat(b.Memory.Path(got.Memory[0].ID), &st)))
	qt.Check(t, qt.IsTrue(st.Size == 40<<20 && st.Blocks*512 < 1<<20), qt.Commentf("%d blocks", st.Blocks))
	// Layers mean the same, though their names have to do with the host.
	for i := range want.Layers {
		qt.Check(t, qt.Equals(got.Layers[i].Own, want.Layers[i].Own))
		qt.Check(t, qt.Equals(got.Layers[i].SizeBytes, want.Layers[i].SizeBytes))
		qt.Check(t, qt.Equals(got.Layers[i].Linked, true))
		diff, err := exec.CommandContext(t.Context(), "diff", "-r", "--no-dereference", a.Layers.Path(want.Layers[i].ID), b.Layers.Path(got.Layers[i].ID)).CombinedOutput()
		// diff can't compare devices: it says that they are some.
		qt.Check(t, qt.Equals(len(diff) > 0, err != nil), qt.Commentf("%s", diff))
	}
	one, err := a.Layers.Content(want.Layers[0].ID)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(b.Layers.Path(got.Layers[0].ID), "../content"))))
	other, err := b.Layers.Content(got.Layers[0].ID)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(other, one))
	qt.Assert(t, qt.IsNil(unix.Lstat(filepath.Join(string(b.snapshot("copy")), "shm/again"), &st)))
	qt.Check(t, qt.IsTrue(st.Nlink == 2 && st.Uid == 33 && st.Gid == 34))
}

// What the target has is not sent again, in either direction.
func TestAgain(t *testing.T) {
	a, b := pair(t)
	d := ordinary(t)
	s := a.take(t, "s", d)
	first := transfer(t, a, s, b, "one", nil)
	qt.Assert(t, qt.IsNil(errors.Join(first.sendErr, first.gotErr)))
	first.got.Release()
	again := transfer(t, a, s, b, "two", nil)
	qt.Assert(t, qt.IsNil(errors.Join(again.sendErr, again.gotErr)))
	again.got.Release()
	qt.Check(t, qt.IsTrue(again.sent.SentBytes < 8<<10), qt.Commentf("%+v", again.sent))
	back := transfer(t, b, b.snapshot("two"), a, "back", nil)
	qt.Assert(t, qt.IsNil(errors.Join(back.sendErr, back.gotErr)))
	back.got.Release()
	qt.Check(t, qt.IsTrue(back.sent.SentBytes < 8<<10), qt.Commentf("%+v", back.sent))
	// Now one page more.
	d.memory = append(d.memory, random(4096))
	a.take(t, "more", d)
	more := transfer(t, a, a.snapshot("more"), b, "more", nil)
	qt.Assert(t, qt.IsNil(errors.Join(more.sendErr, more.gotErr)))
	more.got.Release()
	b.sweep(t)
	for _, name := range []string{"one", "two", "more"} {
		b.check(t, b.snapshot(name))
	}
	a.check(t, a.snapshot("back"))
}

// A target whose own library is another one gets that of the snapshot.
func TestOtherLibrary(t *testing.T) {
	a, b := pair(t)
	d := ordinary(t)
	s := a.take(t, "s", d)
	lib := filepath.Join(d.root, "usr/lib/libc.so.6")
	qt.Assert(t, qt.IsNil(os.Remove(lib)))
	qt.Assert(t, qt.IsNil(os.WriteFile(lib, random(70<<10), 0o755)))
	o := transfer(t, a, s, b, "s", nil)
	qt.Assert(t, qt.IsNil(errors.Join(o.sendErr, o.gotErr)))
	o.got.Release()
	qt.Check(t, qt.Equals(o.sent.SavedBytes, 0))
	m := b.check(t, b.snapshot("s"))
	qt.Check(t, qt.Equals(m.HostFiles[0].Stamp, ""))
}

// The target refuses before anything of it is sent.
func TestRefused(t *testing.T) {
	a, b := pair(t)
	s := a.take(t, "s", ordinary(t))
	x, y := newWires(t)
	done := make(chan error, 1)
	go func() {
		_, err := cargo.Receive(t.Context(), y, b.Stores, cargo.ReceiveOptions{Place: func(m *snapshot.Manifest) (string, error) {
			return "", fmt.Errorf("snapshot %s: %w", m.Name, errdefs.ErrAlreadyExists)
		}})
		done <- err
	}()
	_, err := cargo.Send(t.Context(), x, s, a.Stores, cargo.SendOptions{})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.ErrorMatches(err, "the other host says: snapshot s: already exists"))
	qt.Check(t, qt.ErrorIs(<-done, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.HasLen(b.all(t), 0))
}

// Whatever message is lost with the stream, nothing is left, and it can be done again.
func TestCut(t *testing.T) {
	a, b := pair(t)
	d := ordinary(t)
	d.memory[0] = append(random(200<<10), make([]byte, 1<<20)...)
	s := a.take(t, "s", d)
	whole := transfer(t, a, s, newHost(t, t.TempDir()), "s", nil)
	qt.Assert(t, qt.IsNil(errors.Join(whole.sendErr, whole.gotErr)))
	for n := range whole.messages {
		o := transfer(t, a, s, b, "s", func(source, _ *wire) {
			source.each = func(i int, m []byte) ([]byte, error) {
				if i == n {
					return nil, errBroken
				}
				return m, nil
			}
		})
		qt.Assert(t, qt.ErrorIs(o.sendErr, errBroken), qt.Commentf("message %d", n))
		qt.Assert(t, qt.ErrorIs(o.gotErr, errBroken), qt.Commentf("message %d", n))
		b.sweep(t)
		qt.Assert(t, qt.HasLen(b.all(t), 0), qt.Commentf("message %d", n))
	}
	// The target says four things: want, go, done, and what is on the way when the source is told.
	for n := range 3 {
		o := transfer(t, a, s, b, "s", func(_, target *wire) {
			target.each = func(i int, m []byte) ([]byte, error) {
				if i == n {
					return nil, errBroken
				}
				return m, nil
			}
		})
		qt.Assert(t, qt.ErrorIs(o.sendErr, errBroken), qt.Commentf("answer %d", n))
		if n < 2 {
			qt.Assert(t, qt.ErrorIs(o.gotErr, errBroken), qt.Commentf("answer %d", n))
			b.sweep(t)
			qt.Assert(t, qt.HasLen(b.all(t), 0), qt.Commentf("answer %d", n))
			continue
		}
		// Everything was there, and the source can't know.
		qt.Assert(t, qt.IsNil(o.gotErr))
		qt.Assert(t, qt.ErrorIs(o.sendErr, cargo.ErrUnknown))
		o.got.Release()
	}
	b.check(t, b.snapshot("s"))
	// Nobody has anything pinned.
	for _, h := range []*hosted{a, b} {
		qt.Assert(t, qt.IsNil(h.snapshot("s").Remove()))
		h.sweep(t)
		qt.Assert(t, qt.HasLen(h.all(t), 0))
	}
}

// A transfer is cancelled, at each message and on either side.
func TestCancel(t *testing.T) {
	a, b := pair(t)
	d := ordinary(t)
	d.memory[0] = append(random(100<<10), make([]byte, 1<<20)...)
	d.layers = d.layers[:1]
	s := a.take(t, "s", d)
	for _, bySource := range []bool{true, false} {
		for n := 0; ; n++ {
			x, y := newWires(t)
			sctx, scancel := context.WithCancel(t.Context())
			rctx, rcancel := context.WithCancel(t.Context())
			cancelled := false
			x.each = func(i int, m []byte) ([]byte, error) {
				if i == n && bySource {
					cancelled = true
					scancel()
				} else if i == n {
					cancelled = true
					rcancel()
				}
				return m, nil
			}
			var both sync.WaitGroup
			var sendErr, gotErr error
			both.Go(func() { _, sendErr = cargo.Send(sctx, x, s, a.Stores, cargo.SendOptions{}) })
			both.Go(func() {
				var got *cargo.Received
				if got, gotErr = cargo.Receive(rctx, y, b.Stores, cargo.ReceiveOptions{Place: placeAt(b, "s")}); gotErr == nil {
					got.Release()
				}
			})
			both.Wait()
			scancel()
			rcancel()
			if !cancelled {
				qt.Assert(t, qt.IsNil(errors.Join(sendErr, gotErr)))
				qt.Assert(t, qt.IsTrue(n > 10))
				qt.Assert(t, qt.IsNil(b.snapshot("s").Remove()))
				b.sweep(t)
				break
			}
			if gotErr == nil { // it came too late
				qt.Assert(t, qt.IsNil(b.snapshot("s").Remove()))
			} else {
				qt.Assert(t, qt.ErrorIs(gotErr, context.Canceled))
				qt.Assert(t, qt.IsNotNil(sendErr))
			}
			b.sweep(t)
			qt.Assert(t, qt.HasLen(b.all(t), 0), qt.Commentf("message %d", n))
		}
	}
}

// A step of the target that fails leaves nothing, and the source is told.
func TestPoints(t *testing.T) {
	a, b := pair(t)
	s := a.take(t, "s", ordinary(t))
	for _, point := range cargo.Points() {
		plan, err := fault.Parse(string(point) + "=error")
		qt.Assert(t, qt.IsNil(err))
		ctx := fault.With(t.Context(), plan)
		x, y := newWires(t)
		var both sync.WaitGroup
		var sendErr, gotErr error
		both.Go(func() { _, sendErr = cargo.Send(ctx, x, s, a.Stores, cargo.SendOptions{}) })
		both.Go(func() {
			var got *cargo.Received
			if got, gotErr = cargo.Receive(ctx, y, b.Stores, cargo.ReceiveOptions{Place: placeAt(b, "s")}); gotErr == nil {
				got.Release()
			}
		})
		both.Wait()
		qt.Check(t, qt.ErrorMatches(errors.Join(sendErr, gotErr), "(?s).*at "+string(point)+": injected fault.*"))
		if point == cargo.Sent { // the target may be quicker than the source is broken
			_ = b.snapshot("s").Remove()
		} else {
			qt.Check(t, qt.IsNotNil(sendErr))
			qt.Check(t, qt.IsNotNil(gotErr))
		}
		b.sweep(t)
		qt.Check(t, qt.HasLen(b.all(t), 0), qt.Commentf("%s", point))
	}
}

// Whatever byte of whatever message is changed, the target either refuses it or has what was saved.
func TestTampered(t *testing.T) {
	a, b := pair(t)
	d := ordinary(t)
	d.memory[0] = append(random(70<<10), make([]byte, 1<<20)...)
	d.layers = d.layers[:1]
	s := a.take(t, "s", d)
	refused, passed := 0, 0
	whole := transfer(t, a, s, newHost(t, t.TempDir()), "s", nil)
	for n := range whole.messages {
		for _, where := range []float64{0, 0.5, 0.99} {
			o := transfer(t, a, s, b, "s", func(source, _ *wire) {
				source.each = func(i int, m []byte) ([]byte, error) {
					if i == n {
						m[int(float64(len(m)-1)*where)] ^= 0x10
					}
					return m, nil
				}
			})
			if o.gotErr == nil {
				passed++
				o.got.Release()
				got := b.check(t, b.snapshot("s"))
				qt.Assert(t, qt.Equals(len(got.Memory), len(d.memory)))
				qt.Assert(t, qt.IsNil(b.snapshot("s").Remove()))
			} else {
				refused++
				qt.Assert(t, qt.IsNotNil(o.sendErr), qt.Commentf("message %d", n))
			}
			b.sweep(t)
			qt.Assert(t, qt.HasLen(b.all(t), 0), qt.Commentf("message %d: %v", n, o.gotErr))
		}
	}
	qt.Check(t, qt.IsTrue(refused > 10*passed), qt.Commentf("%d refused, %d passed", refused, passed))
}

// A memory file that has rotted on the source's disk is not taken for what it was.
func TestRotten(t *testing.T) {
	a, b := pair(t)
	s := a.take(t, "s", ordinary(t))
	m := a.check(t, s)
	path := a.Memory.Path(m.Memory[0].ID)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	qt.Assert(t, qt.IsNil(err))
	_, err = f.WriteAt([]byte("x"), 5<<20)
	qt.Assert(t, qt.IsNil(errors.Join(err, f.Close())))
	o := transfer(t, a, s, b, "s", nil)
	qt.Check(t, qt.ErrorIs(o.gotErr, tree.ErrDamaged))
	qt.Check(t, qt.ErrorIs(o.sendErr, tree.ErrDamaged))
	b.sweep(t)
	qt.Check(t, qt.HasLen(b.all(t), 0))
}
