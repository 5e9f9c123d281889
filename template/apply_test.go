package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/leak"
)

// root is a directory that has these files: path to content; "-> X" is a link,
// and what ends in a slash a directory.
func makeTree(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Dir(p), 0o755)))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			qt.Assert(t, qt.IsNil(os.Symlink(target, p)))
		} else if strings.HasSuffix(name, "/") {
			qt.Assert(t, qt.IsNil(os.MkdirAll(p, 0o755)))
		} else {
			qt.Assert(t, qt.IsNil(os.WriteFile(p, []byte(content), 0o600)))
		}
	}
	return dir
}

// listing is what makeTree makes, without directories that have something in
// them, and without the instance file.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		qt.Assert(t, qt.IsNil(err))
		name := strings.TrimPrefix(p, dir)
		switch {
		case name == "/run" || name == "/run/snapctl" || name == InstancePath:
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			qt.Assert(t, qt.IsNil(err))
			files[name] = "-> " + target
		case d.IsDir():
			if entries, err := os.ReadDir(p); err == nil && len(entries) == 0 {
				files[name+"/"] = ""
			}
		default:
			text, err := os.ReadFile(p)
			qt.Assert(t, qt.IsNil(err))
			files[name] = string(text)
		}
		return nil
	})
	qt.Assert(t, qt.IsNil(err))
	return files
}

func TestApply(t *testing.T) {
	file := func(path string) Plan { return Plan{Files: []PlannedFile{{Path: path, Content: []byte("new")}}} }
	redirect := func(path, target string) Plan { return Plan{Redirects: []PlannedRedirect{{path, target}}} }
	for name, test := range map[string]struct {
		plan      Plan
		tree, add map[string]string // before, and what is different after
		gone      []string
		err       string
	}{
		"new file":          {plan: file("/etc/app/conf.d/a"), add: map[string]string{"/etc/app/conf.d/a": "new"}},
		"old file":          {plan: file("/a"), tree: map[string]string{"/a": "old"}, add: map[string]string{"/a": "new"}},
		"directory":         {plan: file("/a"), tree: map[string]string{"/a/b": "old"}, err: "write /a: there is something else than a file"},
		"through a file":    {plan: file("/a/b"), tree: map[string]string{"/a": "old"}, err: "write /a/b: .*not a directory"},
		"relative link":     {plan: file("/lib/a"), tree: map[string]string{"/lib": "-> usr/lib", "/usr/lib/": ""}, add: map[string]string{"/usr/lib/a": "new"}, gone: []string{"/usr/lib/"}},
		"absolute link":     {plan: file("/var/run/a"), tree: map[string]string{"/var/run": "-> /opt", "/opt/b": ""}, add: map[string]string{"/opt/a": "new"}},
		"link at the end":   {plan: file("/etc/a"), tree: map[string]string{"/etc/a": "-> /opt/x", "/opt/x": "old"}, add: map[string]string{"/opt/x": "new"}},
		"dangling link":     {plan: file("/etc/a"), tree: map[string]string{"/etc/a": "-> ../opt/x"}, add: map[string]string{"/opt/x": "new"}},
		"link out":          {plan: file("/up/x"), tree: map[string]string{"/up": "-> ../../../.."}, add: map[string]string{"/x": "new"}},
		"absolute link out": {plan: file("/up"), tree: map[string]string{"/up": "-> /../../x"}, add: map[string]string{"/x": "new"}},
		"links in a circle": {plan: file("/a/b"), tree: map[string]string{"/a": "-> c", "/c": "-> a"}, err: "write /a/b: resolve /a/b: too many levels of symbolic links"},
		"link to /proc":     {plan: file("/a"), tree: map[string]string{"/a": "-> /proc/sys/kernel/hostname"}, err: "write /a: path leads out of the clone: /proc/sys/kernel/hostname is not part of the app's files"},
		"in a bind":         {plan: file("/data/a"), err: "write /data/a: path leads out of the clone: /data/a is in the bind /data, which is the host's.*"},
		"link to a bind":    {plan: file("/a"), tree: map[string]string{"/a": "-> data/a"}, err: "write /a: path leads out of the clone.*"},

		"redirect nothing": {plan: redirect("/a/b", "/srv/x"), add: map[string]string{"/a/b": "-> ../srv/x", "/srv/x/": ""}},
		"redirect a directory": {
			plan: redirect("/a", "/srv/x"), tree: map[string]string{"/a/b/c": "old", "/a/l": "-> /etc", "/a/e/": ""},
			add: map[string]string{"/a": "-> srv/x", "/srv/x/b/c": "old", "/srv/x/l": "-> /etc", "/srv/x/e/": ""}, gone: []string{"/a/b/c", "/a/l", "/a/e/"},
		},
		"redirect a file": {plan: redirect("/a", "/srv/x"), tree: map[string]string{"/a": "old"}, add: map[string]string{"/a": "-> srv/x", "/srv/x": "old"}},
		"redirect a link": {plan: redirect("/a", "/srv/x"), tree: map[string]string{"/a": "-> /etc"}, add: map[string]string{"/a": "-> srv/x", "/srv/x/": ""}},
		"target is there": {
			plan: redirect("/a", "/srv/x"), tree: map[string]string{"/a/b": "old", "/srv/x/c": "kept"},
			add: map[string]string{"/a": "-> srv/x"}, gone: []string{"/a/b"},
		},
		"redirect behind a link": {plan: redirect("/var/run/a", "/srv/x"), tree: map[string]string{"/var/run": "-> /opt/run", "/opt/run/": ""}, add: map[string]string{"/opt/run/a": "-> ../../srv/x", "/srv/x/": ""}, gone: []string{"/opt/run/"}},
		"target behind a link":   {plan: redirect("/a", "/l/x"), tree: map[string]string{"/l": "-> /opt"}, add: map[string]string{"/a": "-> opt/x", "/opt/x/": ""}},
		"target in itself":       {plan: redirect("/a", "/l/x"), tree: map[string]string{"/a/": "", "/l": "-> a"}, err: "redirect /a to /l/x: invalid: /a and /a/x are in one another"},
		"redirect a bind":        {plan: redirect("/data", "/srv"), err: "redirect /data to /srv: path leads out of the clone.*"},
		"target in /dev":         {plan: redirect("/a", "/l/x"), tree: map[string]string{"/l": "-> /dev"}, err: "redirect /a to /l/x: path leads out of the clone.*"},
		"redirect, then write": {
			plan: Plan{Redirects: []PlannedRedirect{{"/a", "/srv/x"}}, Files: []PlannedFile{{Path: "/a/b", Content: []byte("new")}}},
			tree: map[string]string{"/a/b": "old"}, add: map[string]string{"/a": "-> srv/x", "/srv/x/b": "new"}, gone: []string{"/a/b"},
		},

		"machine id":           {plan: Plan{MachineID: PlannedMachineID{ID: "1f"}}, tree: map[string]string{"/etc/machine-id": "0"}, add: map[string]string{"/etc/machine-id": "1f\n"}},
		"no machine id":        {plan: Plan{MachineID: PlannedMachineID{ID: "1f"}}},
		"new machine id":       {plan: Plan{MachineID: PlannedMachineID{ID: "1f", Create: true}}, add: map[string]string{"/etc/machine-id": "1f\n"}},
		"machine id of D-Bus":  {plan: Plan{MachineID: PlannedMachineID{ID: "1f"}}, tree: map[string]string{"/etc/machine-id": "0", "/var/lib/dbus/machine-id": "2"}, add: map[string]string{"/etc/machine-id": "1f\n", "/var/lib/dbus/machine-id": "1f\n"}},
		"machine id is a link": {plan: Plan{MachineID: PlannedMachineID{ID: "1f"}}, tree: map[string]string{"/etc/machine-id": "0", "/var/lib/dbus/machine-id": "-> /etc/machine-id"}, add: map[string]string{"/etc/machine-id": "1f\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			leak.Check(t)
			outside := t.TempDir()
			dir := makeTree(t, filepath.Join(outside, "a", "b"), test.tree)
			qt.Assert(t, qt.IsNil(os.MkdirAll(dir, 0o755)))
			err := test.plan.Apply(t.Context(), dir, map[string]string{"/data": filepath.Join(outside, "bind")})
			if test.err != "" {
				qt.Assert(t, qt.ErrorMatches(err, "(?s)"+test.err))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			want := make(map[string]string)
			for _, from := range []map[string]string{test.tree, test.add} {
				maps.Copy(want, from)
			}
			for _, name := range test.gone {
				delete(want, name)
			}
			qt.Assert(t, qt.CmpEquals(listing(t, dir), want))
			entries, err := os.ReadDir(outside)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.HasLen(entries, 1), qt.Commentf("it got out"))
		})
	}
}

// A directory that clones share has a place for each of them.
func TestRedirectIntoBind(t *testing.T) {
	for name, test := range map[string]struct{ tree, bind, want map[string]string }{
		"nothing":   {want: map[string]string{"/web-7/": ""}},
		"directory": {tree: map[string]string{"/var/log/app/x/log": "old", "/var/log/app/l": "-> x"}, want: map[string]string{"/web-7/x/log": "old", "/web-7/l": "-> x"}},
		"file":      {tree: map[string]string{"/var/log/app": "old"}, want: map[string]string{"/web-7": "old"}},
		"there":     {tree: map[string]string{"/var/log/app/log": "old"}, bind: map[string]string{"/web-7/log": "mine"}, want: map[string]string{"/web-7/log": "mine"}},
	} {
		t.Run(name, func(t *testing.T) {
			leak.Check(t)
			dir, bind := makeTree(t, t.TempDir(), test.tree), makeTree(t, t.TempDir(), test.bind)
			p := Plan{Redirects: []PlannedRedirect{{"/var/log/app", "/data/logs/web-7"}}}
			qt.Assert(t, qt.IsNil(p.Apply(t.Context(), dir, map[string]string{"/data/logs": bind, "/data": t.TempDir()})))
			qt.Check(t, qt.CmpEquals(listing(t, dir), map[string]string{"/var/log/app": "-> ../../data/logs/web-7"}))
			qt.Check(t, qt.CmpEquals(listing(t, bind), test.want))
		})
	}
}

func TestModeAndOwner(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := makeTree(t, t.TempDir(), map[string]string{
		"/etc/passwd": "root:x:0:0::/:/bin/sh\nworker:x:33:44::/:/bin/sh\n", "/etc/group": "root:x:0:\nstaff:x:50:a,b\n", "/old": "x",
	})
	qt.Assert(t, qt.IsNil(os.Chown(filepath.Join(dir, "old"), 7, 8)))
	qt.Assert(t, qt.IsNil(os.Chmod(filepath.Join(dir, "old"), 0o4711|fs.ModeSetuid)))
	write := func(f PlannedFile) (*syscall.Stat_t, error) {
		p := Plan{Files: []PlannedFile{f}}
		if err := p.Apply(t.Context(), dir, nil); err != nil {
			return nil, err
		}
		var st syscall.Stat_t
		return &st, syscall.Stat(filepath.Join(dir, f.Path), &st)
	}
	for name, test := range map[string]struct {
		file     PlannedFile
		mode     uint32
		uid, gid uint32
	}{
		"default":      {PlannedFile{Path: "/a"}, 0o644, 0, 0},
		"as it was":    {PlannedFile{Path: "/old"}, 0o4711, 7, 8},
		"mode":         {PlannedFile{Path: "/b", Mode: new(fs.FileMode(0o600))}, 0o600, 0, 0},
		"user":         {PlannedFile{Path: "/c", Owner: "worker"}, 0o644, 33, 44},
		"group":        {PlannedFile{Path: "/d", Owner: "worker:staff", Mode: new(0o750 | fs.ModeSetgid)}, 0o2750, 33, 50},
		"known number": {PlannedFile{Path: "/e", Owner: "33"}, 0o644, 33, 44},
		"numbers":      {PlannedFile{Path: "/f", Owner: "1000:1001"}, 0o644, 1000, 1001},
		"number":       {PlannedFile{Path: "/g", Owner: "1000"}, 0o644, 1000, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			st, err := write(test.file)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.Equals(st.Mode&0o7777, test.mode))
			qt.Check(t, qt.Equals(st.Uid, test.uid))
			qt.Check(t, qt.Equals(st.Gid, test.gid))
		})
	}
	for owner, want := range map[string]string{
		"nobody":        `write /x: owner "nobody": the clone's /etc/passwd has no such user`,
		"worker:nobody": `write /x: owner "worker:nobody": the clone's /etc/group has no such group`,
		"4294967295":    `write /x: owner "4294967295": the clone's /etc/passwd has no such user`,
	} {
		_, err := write(PlannedFile{Path: "/x", Owner: owner})
		qt.Check(t, qt.ErrorMatches(err, want))
	}
}

// An overlay does not rename directories of its lower layer.
func TestRedirectOnOverlay(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	mount(t, "tmpfs", dir, "") // an upper layer has to take xattrs
	for _, sub := range []string{"lower/a/b", "upper", "work", "root"} {
		qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Join(dir, sub), 0o755)))
	}
	makeTree(t, filepath.Join(dir, "lower"), map[string]string{"/a/b/c": "old"})
	qt.Assert(t, qt.IsNil(unix.Setxattr(filepath.Join(dir, "lower/a/b"), "trusted.x", []byte("y"), 0)))
	qt.Assert(t, qt.IsNil(os.Chown(filepath.Join(dir, "lower/a/b/c"), 7, 8)))
	root := filepath.Join(dir, "root")
	mount(t, "overlay", root, "redirect_dir=off,lowerdir="+dir+"/lower,upperdir="+dir+"/upper,workdir="+dir+"/work")
	qt.Assert(t, qt.ErrorIs(os.Rename(root+"/a", root+"/x"), unix.EXDEV))

	p := Plan{Redirects: []PlannedRedirect{{"/a", "/srv/x"}}}
	qt.Assert(t, qt.IsNil(p.Apply(t.Context(), root, nil)))
	qt.Check(t, qt.CmpEquals(listing(t, root), map[string]string{"/a": "-> srv/x", "/srv/x/b/c": "old"}))
	qt.Check(t, qt.CmpEquals(listing(t, dir+"/lower"), map[string]string{"/a/b/c": "old"}))
	var st unix.Stat_t
	qt.Assert(t, qt.IsNil(unix.Stat(root+"/srv/x/b/c", &st)))
	qt.Check(t, qt.Equals([2]uint32{st.Uid, st.Gid}, [2]uint32{7, 8}))
	value := make([]byte, 8)
	n, err := unix.Getxattr(root+"/srv/x/b", "trusted.x", value)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(value[:n]), "y"))
}

func mount(t *testing.T, kind, dir, data string) {
	t.Helper()
	qt.Assert(t, qt.IsNil(unix.Mount("snapctl-test", dir, kind, 0, data)))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(unix.Unmount(dir, 0))) })
}

func TestInstanceFile(t *testing.T) {
	leak.Check(t)
	dir := makeTree(t, t.TempDir(), map[string]string{"/run": "-> /var/run", "/var/run/": ""})
	r := &Rules{Parameters: map[string]Parameter{"A": {}, "S": {Secret: true}}}
	p, err := r.Plan(clone(set("A", "x", "S", "hidden")))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(p.Apply(t.Context(), dir, nil)))

	at := filepath.Join(dir, "var/run/snapctl/instance.json")
	text, err := os.ReadFile(at)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(text), `{
  "schema_version": 1,
  "name": "web-7",
  "number": 7,
  "template": "web",
  "endpoint": "10.77.0.20",
  "endpoint6": "fd77::20",
  "hostname": "origin",
  "generation": "g1",
  "created_at": "2026-01-02T15:04:05Z",
  "parameters": {
    "A": "x"
  }
}
`))
	info, err := os.Stat(at)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(info.Mode(), fs.FileMode(0o644)))

	// It is replaced, so that who has it open is not surprised.
	old, err := os.Open(at)
	qt.Assert(t, qt.IsNil(err))
	defer old.Close()
	again := p.Instance
	again.Generation = "g2"
	qt.Assert(t, qt.IsNil(again.Write(dir)))
	var was, is InstanceFile
	qt.Assert(t, qt.IsNil(json.NewDecoder(old).Decode(&was)))
	text, err = os.ReadFile(at)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(json.Unmarshal(text, &is)))
	qt.Check(t, qt.DeepEquals(was, p.Instance))
	qt.Check(t, qt.DeepEquals(is, again))
}

// The files of an app are what it made of them: none may stop who reads them.
func TestOwnersOfNoFile(t *testing.T) {
	testenv.Need(t, testenv.Root)
	plan := Plan{Files: []PlannedFile{{Path: "/a", Owner: "app", Content: []byte("new")}}}
	for name, mode := range map[string]uint32{"FIFO": unix.S_IFIFO, "endless": unix.S_IFCHR} {
		t.Run(name, func(t *testing.T) {
			root := makeTree(t, t.TempDir(), map[string]string{"/etc/": ""})
			qt.Assert(t, qt.IsNil(unix.Mknod(filepath.Join(root, "etc/passwd"), mode|0o666, int(unix.Mkdev(1, 5)))))
			ended := make(chan error, 1)
			go func() { ended <- plan.Apply(t.Context(), root, nil) }()
			select {
			case err := <-ended:
				qt.Assert(t, qt.ErrorMatches(err, "write /a: owner \"app\": read /etc/passwd: it is no file of a sensible size"))
			case <-time.After(10 * time.Second):
				t.Fatal("it is still being read")
			}
		})
	}
}

// Others see what is moved to a place that they share when all of it is there.
func TestRedirectIntoSharedDirectory(t *testing.T) {
	testenv.Need(t, testenv.Root)
	files := make(map[string]string)
	for i := range 500 {
		files[fmt.Sprintf("/data/%d", i)] = "x"
	}
	root, shared := makeTree(t, t.TempDir(), files), t.TempDir()
	plan := Plan{Redirects: []PlannedRedirect{{"/data", "/shared/own"}}}
	ended := make(chan error, 1)
	go func() { ended <- plan.Apply(t.Context(), root, map[string]string{"/shared": shared}) }()
	var seen []os.DirEntry
	for err := fs.ErrNotExist; err != nil; {
		seen, err = os.ReadDir(filepath.Join(shared, "own"))
		qt.Assert(t, qt.IsTrue(err == nil || errors.Is(err, fs.ErrNotExist)))
		select {
		case err := <-ended:
			qt.Assert(t, qt.IsNil(err))
			ended <- nil
		default:
		}
	}
	qt.Assert(t, qt.IsNil(<-ended))
	qt.Assert(t, qt.HasLen(seen, 500))
	left, err := os.ReadDir(shared)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(left, 1))
}

// A user is the clone's own, wherever its files lead.
func TestLookupUser(t *testing.T) {
	testenv.Need(t, testenv.Root) // who is "root" is not the question
	outside := makeTree(t, t.TempDir(), map[string]string{"/passwd": "intruder:x:1:1::/:/bin/sh\n"})
	dir := makeTree(t, t.TempDir(), map[string]string{
		"/etc/passwd": "-> ../../../../lib/passwd", "/lib/passwd": "worker:x:33:44::/:/bin/sh\nroot:x:5:6::/:/bin/sh\n", "/etc/group": "staff:x:50:a,b\n",
	})
	for user, want := range map[string][2]uint32{
		"worker": {33, 44}, "worker:staff": {33, 50}, "33": {33, 44}, "1000": {1000, 1000}, "1000:1001": {1000, 1001}, "root": {5, 6},
	} {
		uid, gid, err := LookupUser(dir, user)
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals([2]uint32{uid, gid}, want), qt.Commentf("%s", user))
	}
	_, _, err := LookupUser(dir, "daemon") // the host has one
	qt.Check(t, qt.ErrorMatches(err, `user "daemon": the clone's /etc/passwd has no such user`))
	qt.Assert(t, qt.IsNil(os.Remove(filepath.Join(dir, "etc/passwd"))))
	qt.Assert(t, qt.IsNil(os.Symlink(filepath.Join(outside, "passwd"), filepath.Join(dir, "etc/passwd"))))
	_, _, err = LookupUser(dir, "intruder")
	qt.Check(t, qt.ErrorMatches(err, `user "intruder": the clone's /etc/passwd has no such user`))
}
