package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv/host"
)

// filesOf says in one line all that an app sees of its files: types, modes, owners,
// sizes, bytes, targets, users' extended attributes, and which names are one file.
const filesOf = `
import hashlib, os, stat
first, sum = {}, hashlib.sha256()
def look(path):
    st = os.lstat(path)
    line = [path, oct(st.st_mode), st.st_uid, st.st_gid]
    if stat.S_ISREG(st.st_mode):
        line += [st.st_size, hashlib.sha256(open(path, "rb").read()).hexdigest(), st.st_mtime_ns, first.setdefault((st.st_dev, st.st_ino), path)]
    if stat.S_ISLNK(st.st_mode):
        line.append(os.readlink(path))
    line += [(n, os.getxattr(path, n, follow_symlinks=False)) for n in os.listxattr(path, follow_symlinks=False) if n.startswith("user.")]
    sum.update(repr(line).encode())
    if stat.S_ISDIR(st.st_mode):
        for name in sorted(os.listdir(path)):
            look(path + "/" + name)
for path in "/data", "/etc/skel", "/etc/debian_version", "/usr/share/base-files":
    if os.path.lexists(path): look(path)
print(sum.hexdigest(), os.path.lexists("/etc/issue"))
`

// shared is an app with files of all kinds, and what it does to them.
type shared struct {
	w    *World
	name string
	c    *caller
}

func (w *World) shared(name string) *shared {
	w.t.Helper()
	return &shared{w, name, w.caller(w.Show(name).GetEndpoint())}
}

func (s *shared) sh(script string) {
	s.w.t.Helper()
	s.w.OK("exec", s.name, "--", "sh", "-ec", script)
}

// sees is what it sees of its files; of those that it has open and mapped too.
func (s *shared) sees() string {
	s.w.t.Helper()
	return strings.TrimSpace(s.w.OK("exec", s.name, "--", "python3", "-c", filesOf)) + " " + s.c.ask("held") + " " + s.c.ask("mapped")
}

// blocks is how much of the disk the files at or below a path of the state directory
// have.
func (w *World) blocks(path string) (bytes int64) {
	w.t.Helper()
	err := filepath.WalkDir(filepath.Join(w.Outside(w.StateDir()), path), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		bytes += st.Blocks * 512
		return nil
	})
	qt.Assert(w.t, qt.IsNil(err))
	return bytes
}

// files makes the first of them.
func (w *World) files() *shared {
	w.t.Helper()
	w.actor(&api.RunRequest{Name: "g0", Endpoint: actorEndpoint})
	s := w.shared("g0")
	prog, err := w.Install(w.t.Context(), "actor")
	qt.Assert(w.t, qt.IsNil(err))
	s.sh(`mkdir -p /data/many /data/dir/deep /data/again
		i=0; while [ $i -lt 300 ]; do echo file $i >/data/many/$i; i=$((i+1)); done
		ln /data/many/1 /data/linked; ln -s many/2 /data/link; : >/data/empty; mkfifo /data/fifo
		echo deep >/data/dir/deep/file; echo in it >/data/dir/file; printf "mapped words" >/data/map; echo again >/data/again/file
		python3 -c 'import os; os.setxattr("/data/many/3", "user.color", b"red")'
		rm /etc/issue; rm -r /etc/skel; mkdir /etc/skel; echo own >/etc/skel/own
		cp ` + prog + ` /data/prog`)
	s.c.tell("map /data/map", "start /data/prog", "hold /data/deleted", "remove /data/deleted", "append held ")
	return s
}

// changes are what the generations do.
var changes = []string{
	// Modes and owners only, of files of the layer and of the host; names.
	`chmod 600 /data/many/1?; chown 7:8 /data/many/2?; chmod 640 /etc/debian_version; touch -d @1000000000 /data/many/30
	mv /data/dir /data/moved; rm -r /data/again; mkdir /data/again; echo new >/data/again/new; rm /data/many/299 /data/fifo
	mv /usr/share/base-files /data/base-files; mv /data/many/40 /data/forty; chmod 711 /data/prog`,
	`chmod 604 /data/many/1?; mv /data/moved/deep /data/deep; mv /data/moved /data/moved2; echo more >>/data/many/50
	chmod 444 /data/forty; ln /data/forty /data/forty-too; rm -r /etc/skel; chmod 700 /data/deep/file; mv /data/many /data/lots`,
	`mv /data/lots /data/deep/lots; chown 1:1 /data/forty; echo 3 >/data/three; rm /data/prog /data/map`,
}

// TestSharedFiles makes three generations of clones whose files are the template's.
func TestSharedFiles(t *testing.T) { everyLayout(t, sharedFiles) }

// everyLayout has the state directory in the apps' own root, where stubs stand for
// layers, and on a file system of its own.
func everyLayout(t *testing.T, test func(*testing.T, *World)) {
	t.Helper()
	t.Run("inside", func(t *testing.T) { test(t, New(t, "python3")) })
	t.Run("apart", func(t *testing.T) {
		test(t, newWorld(t, host.Config{}, func(h *host.Host) {
			qt.Assert(t, qt.IsNil(os.MkdirAll(h.StateDir(), 0o700)))
			run(t, h, "mount", "-t", "tmpfs", "-o", "size=512m", "none", h.StateDir())
		}, "python3"))
	})
}

func sharedFiles(t *testing.T, w *World) {
	t.Helper()
	s := w.files()
	for g, change := range changes {
		want := s.sees()
		tmpl := fmt.Sprint("t", g)
		w.template(tmpl, s.name, "")
		qt.Assert(t, qt.Equals(s.sees(), want))
		layers := w.blocks("layers")
		made := w.clones(&api.CloneRequest{Template: tmpl, Count: 3})
		if g == 1 {
			w.killDaemon()
		}
		for i, r := range made {
			c := w.shared(r.GetName())
			qt.Assert(t, qt.Equals(c.sees(), want), qt.Commentf("generation %d", g))
			own := w.blocks("apps/" + r.GetName() + "/storage")
			qt.Assert(t, qt.IsTrue(own < 128<<10), qt.Commentf("%s has %d bytes of its own", r.GetName(), own))
			if g == 0 {
				c.idsTellLayers()
			}
			// Neither its own sleep nor what the others do changes anything.
			c.c.tell(fmt.Sprint("append ", i))
			c.sh(fmt.Sprint("echo ", i, " >/data/own; chmod 60", i, " /data/empty"))
			saw := c.sees()
			w.Hibernate(c.name)
			if g == 1 && i == 1 {
				w.killDaemon()
			}
			qt.Assert(t, qt.Equals(c.c.ask("mapped"), "mapped words"))
			w.Running(c.name)
			qt.Assert(t, qt.Equals(c.sees(), saw))
			s = c
		}
		qt.Assert(t, qt.Equals(w.blocks("layers"), layers)) // nobody made a copy
		s.sh(change)
	}
	// The last one as an app that is restored, and as one with a copy of its own.
	want := s.sees()
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: s.name, Name: "last"}, nil)
	qt.Assert(t, qt.IsNil(err))
	_, err = w.API.Restore(t.Context(), &api.RestoreRequest{Snapshot: "last", As: "restored", Endpoint: "10.77.0.200"}, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(w.shared("restored").sees(), want))
	// To make a template of a snapshot is to read every byte of it.
	_, err = w.API.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "tl", Snapshot: "last"}, nil)
	qt.Assert(t, qt.IsNil(err))
	private := w.clones(&api.CloneRequest{Template: "tl", Storage: api.Storage_STORAGE_PRIVATE})[0]
	c := w.shared(private.GetName())
	qt.Assert(t, qt.Equals(c.sees(), want))
	qt.Assert(t, qt.IsTrue(w.blocks("apps/"+c.name+"/storage") > 1<<20))
	w.RemoveAll()
	w.empty()
	w.noStubs()
}

// idsTellLayers proves that the id map names the layers.
func (s *shared) idsTellLayers() {
	s.w.t.Helper()
	ids, err := s.w.API.IDs(s.w.t.Context(), s.name)
	qt.Assert(s.w.t, qt.IsNil(err))
	n := 0
	for _, id := range ids {
		if strings.HasPrefix(id.GetVirtual(), "layer ") {
			n++
			_, err := os.Stat(s.w.Outside(id.GetActual()))
			qt.Assert(s.w.t, qt.IsNil(err))
		}
	}
	qt.Assert(s.w.t, qt.Equals(n, 1))
}

// stubTrees is where trees of stubs are.
const stubTrees = host.RunDir + "/stubs/trees"

// noStubs waits until no tree of stubs is left.
func (w *World) noStubs() {
	w.t.Helper()
	w.Until("no stubs are left", func() error {
		left, err := os.ReadDir(w.Outside(stubTrees))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("there is %s", left[0].Name())
		}
		return err
	})
}
