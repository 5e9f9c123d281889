package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/cgroup"
)

func TestHiddenDirs(t *testing.T) {
	for name, test := range map[string]struct {
		private, want []string
		links         map[string]string
	}{
		"below /tmp":              {private: []string{"/tmp/a/state"}, want: []string{"/run", "/tmp", "/var/tmp"}},
		"below /var/tmp and /run": {private: []string{"/var/tmp/state", "/run/state/b"}, want: []string{"/run", "/tmp", "/var/tmp"}},
		"/tmp itself":             {private: []string{"/tmp"}, want: []string{"/run", "/tmp", "/var/tmp"}},
		"above /var/tmp":          {private: []string{"/var"}, want: []string{"/run", "/tmp", "/var"}},
		"one in the other":        {private: []string{"/srv/a/state/run", "/srv/a/state"}, want: []string{"/run", "/srv/a/state", "/tmp", "/var/tmp"}},
		"names that begin alike":  {private: []string{"/tmp-2/state", "/srv/a", "/srv/a-b"}, want: []string{"/run", "/srv/a-b", "/srv/a", "/tmp-2/state", "/tmp", "/var/tmp"}},
		"a link":                  {private: []string{"/srv/link/state"}, links: map[string]string{"/srv/link": "real"}, want: []string{"/run", "/srv/real/state", "/tmp", "/var/tmp"}},
		"/tmp is a link":          {private: []string{"/tmp/state"}, links: map[string]string{"/tmp": "var/scratch"}, want: []string{"/run", "/tmp", "/var/scratch", "/var/tmp"}},
		"not there":               {private: []string{"/srv/a"}, links: map[string]string{"/srv/a": "gone"}, want: []string{"/run", "/tmp", "/var/tmp"}},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for link, target := range test.links {
				qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(root, filepath.Dir(link)), 0o755)))
				if target != "gone" {
					qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(root, filepath.Dir(link), target), 0o755)))
				}
				qt.Assert(t, qt.IsNil(os.Symlink(target, filepath.Join(root, link))))
			}
			var private []string
			for _, dir := range test.private {
				private = append(private, filepath.Join(root, dir))
				if test.links[dir] != "gone" {
					qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(root, dir), 0o755)))
				}
			}
			dirs, err := hiddenDirs(root, private)
			qt.Assert(t, qt.IsNil(err))
			var got []string
			for _, dir := range dirs {
				got = append(got, dir.path)
			}
			qt.Check(t, qt.ContentEquals(got, test.want))
		})
	}
}

// Everybody must not write to a directory that only root may look into, and every
// program to /tmp.
func TestHideKeepsModes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: trusted extended attributes")
	}
	root, state := t.TempDir(), t.TempDir()
	home := filepath.Join(root, "home/user")
	private := filepath.Join(home, "a/state")
	qt.Assert(t, qt.IsNil(os.MkdirAll(private, 0o755)))
	qt.Assert(t, qt.IsNil(os.Chmod(home, 0o700)))
	qt.Assert(t, qt.IsNil(os.Chown(home, 1234, 1235)))
	hide, err := hiddenDirs(root, []string{private})
	qt.Assert(t, qt.IsNil(err))
	s := New(Config{StateDir: state, Hide: hide, Cgroups: &cgroup.Tree{}, Spec: &specs.Spec{Root: &specs.Root{Path: root}}})
	qt.Assert(t, qt.IsNil(os.MkdirAll(s.Upper(), 0o755)))
	for range 2 { // the second time nothing is left to be done
		qt.Assert(t, qt.IsNil(s.hideHostDirs(nil)))
		for path, want := range map[string]unix.Stat_t{
			"/home/user":         {Mode: unix.S_IFDIR | 0o700, Uid: 1234, Gid: 1235},
			"/home/user/a/state": {Mode: unix.S_IFDIR | 0o700},
			"/tmp":               {Mode: unix.S_IFDIR | 0o1777},
			"/var/tmp":           {Mode: unix.S_IFDIR | 0o1777},
			"/run":               {Mode: unix.S_IFDIR | 0o755},
		} {
			var st unix.Stat_t
			qt.Assert(t, qt.IsNil(unix.Lstat(filepath.Join(s.Upper(), path), &st)))
			qt.Check(t, qt.Equals(unix.Stat_t{Mode: st.Mode, Uid: st.Uid, Gid: st.Gid}, want), qt.Commentf("%s", path))
		}
	}
}
