package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
)

func mounted(t *testing.T, source, dir, kind string, flags uintptr) {
	t.Helper()
	qt.Assert(t, qt.IsNil(unix.Mount(source, dir, kind, flags, "")))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Unmount(dir, unix.MNT_DETACH))) })
}

// TestStack has the state directory in all kinds of places.
func TestStack(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"root/var/state", "root/elsewhere", "root/tmpfs", "beside/state", "bound", "tmpfs"} {
		qt.Assert(t, qt.IsNil(os.MkdirAll(at(name), 0o755)))
	}
	qt.Assert(t, qt.IsNil(os.Symlink("root", at("link"))))
	mounted(t, "none", at("root/tmpfs"), "tmpfs", 0)
	// To an overlay it is not in the root where it is mounted, but where it is stored.
	mounted(t, at("root/var/state"), at("bound"), "", unix.MS_BIND)
	mounted(t, at("root/var/state"), at("root/elsewhere"), "", unix.MS_BIND)
	for name, test := range map[string]struct {
		root, state string
		want        Stacking
	}{
		"inside":            {"root", "root/var/state", Stacking{How: ByStubs, Within: "/var/state"}},
		"inside, by a link": {"link", "link/var/state", Stacking{How: ByStubs, Within: "/var/state"}},
		"bound outside":     {"root", "bound", Stacking{How: ByStubs, Within: "/var/state"}},
		"bound inside":      {"root", "root/elsewhere", Stacking{How: ByStubs, Within: "/var/state"}},
		"beside":            {"root", "beside/state", Stacking{How: Directly}},
		"above":             {"root/var", "root", Stacking{How: Directly}},
		"another one":       {"root", "root/tmpfs", Stacking{How: Directly}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Stack(at(test.root), at(test.state))
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.IsNil(got.Why))
			qt.Assert(t, qt.Equals(got, test.want))
			left, err := os.ReadDir(at(test.state))
			qt.Assert(t, qt.IsNil(err))
			for _, e := range left {
				qt.Assert(t, qt.Not(qt.StringContains(e.Name(), "probe")))
			}
		})
	}
	// What the kernel does not find is no way to share files.
	err := Stacking{How: ByStubs, Within: "/var/wrong"}.try(at("root"), at("root/var/state"))
	qt.Assert(t, qt.ErrorIs(err, errRefused))
	left, err := os.ReadDir(at("root/var/state"))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(left, 0))

	// What a killed process has left goes, and nothing in what it had mounted.
	probe := at("beside/state/" + probePrefix + "1")
	qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(probe, "root"), 0o755)))
	qt.Assert(t, qt.IsNil(os.WriteFile(at("root/precious"), nil, 0o600)))
	qt.Assert(t, qt.IsNil(unix.Mount(at("root"), filepath.Join(probe, "root"), "", unix.MS_BIND, "")))
	qt.Assert(t, qt.IsNil(SweepProbes(at("beside/state"))))
	_, err = os.Lstat(probe)
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
	_, err = os.Lstat(at("root/precious"))
	qt.Assert(t, qt.IsNil(err))
}

func TestOverlayOptions(t *testing.T) {
	o := overlay{lowers: []string{"/a", "/b"}, upper: "/u", work: "/w"}
	text, err := o.options()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(text, "lowerdir=/a:/b,upperdir=/u,workdir=/w"))
	o.metacopy = true
	text, err = o.options()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(text, "lowerdir=/a:/b,upperdir=/u,workdir=/w,metacopy=on,index=off,xino=on"))
	o.lowers[0] = "/a:b"
	_, err = o.options()
	qt.Assert(t, qt.ErrorMatches(err, `path "/a:b": .*`))
	o.lowers[0] = "/" + string(make([]byte, os.Getpagesize()))
	_, err = o.options()
	qt.Assert(t, qt.ErrorIs(err, errTooLong))
}
