package e2e

import (
	"fmt"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// TestClonesOfClones makes templates of clones of templates, with files on the
// same file system as the state directory, where stubs stand for layers, and in a
// root directory of their own, where layers are lower directories.
func TestClonesOfClones(t *testing.T) {
	for name, own := range map[string]bool{"host root": false, "own root": true} {
		t.Run(name, func(t *testing.T) {
			w := New(t)
			req := &api.RunRequest{Name: "g0", Endpoint: actorEndpoint}
			if own {
				req.Rootfs, req.Args = w.rootfs(), []string{"/actor", "--tcp", ":7000"}
				w.Run(req)
			} else {
				w.actor(req)
			}
			c := w.caller(actorEndpoint)
			c.tell("alloc 8", "mkdir /data/kept", "mkdir /data/gone", "mkdir /data/again", "write /data/kept/a 0",
				"write /data/gone/b 0", "write /data/again/c 0", "write /data/file 0", "write /data/hidden 0")
			const generations = 4
			for g := 1; g <= generations; g++ {
				w.template(fmt.Sprint("t", g), fmt.Sprint("g", g-1), "")
				a := w.clone(fmt.Sprint("t", g), fmt.Sprint("g", g), nil)
				qt.Assert(t, qt.Equals(a.GetInsideEndpoint(), actorEndpoint))
				if g > 1 {
					tmpl, err := w.API.ShowTemplate(t.Context(), fmt.Sprint("t", g))
					qt.Assert(t, qt.IsNil(err))
					snapshots, err := w.API.ListSnapshots(t.Context())
					qt.Assert(t, qt.IsNil(err))
					for _, s := range snapshots {
						if s.GetName() != tmpl.GetSnapshot() {
							continue
						}
						qt.Assert(t, qt.IsTrue(s.GetMemoryBytes() < 6<<20), qt.Commentf("%d", s.GetMemoryBytes()))
						qt.Assert(t, qt.IsTrue(s.GetMemorySharedBytes() >= 8<<20), qt.Commentf("%d", s.GetMemorySharedBytes()))
						qt.Assert(t, qt.IsTrue(s.GetStorageSharedBytes() > 0))
					}
				}
				c = w.caller(a.GetEndpoint())
				qt.Assert(t, qt.Equals(c.ask("instance"), fmt.Sprint("g", g)))
				qt.Assert(t, qt.Equals(c.ask("count"), fmt.Sprint(g)))
				qt.Assert(t, qt.Equals(c.ask("read /data/kept/a"), "0"))
				qt.Assert(t, qt.Equals(c.ask("read /data/file"), fmt.Sprint(g-1)))
				switch g {
				case 1: // a whiteout, and a directory that hides the one below
					c.tell("remove /data/gone", "remove /data/again", "mkdir /data/again", "write /data/again/d 1", "remove /data/hidden")
				case 2:
					c.tell("mkdir /data/hidden", "write /data/hidden/x 2", "mkdir /data/gone/deeper")
				case 3:
					c.tell("remove /data/hidden", "write /data/hidden 3")
				}
				c.tell(fmt.Sprint("write /data/file ", g))
				if g >= 2 {
					qt.Assert(t, qt.Equals(c.ask("list /data/again"), "d"))
					qt.Assert(t, qt.Equals(c.ask("list /data/gone"), "deeper"))
				}
				// Its own sleep does not mix them up.
				w.Hibernate(fmt.Sprint("g", g))
				qt.Assert(t, qt.Equals(c.ask("read /data/file"), fmt.Sprint(g)))
				w.Running(fmt.Sprint("g", g))
				if g == 2 {
					w.killDaemon()
				}
			}
			last := w.clones(&api.CloneRequest{Template: fmt.Sprint("t", generations), Count: 2, Storage: api.Storage_STORAGE_PRIVATE})[1]
			c = w.caller(last.GetApp().GetEndpoint())
			qt.Assert(t, qt.Equals(c.ask("read /data/hidden"), "3"))
			qt.Assert(t, qt.Equals(c.ask("list /data"), "again file gone hidden kept"))
			qt.Assert(t, qt.Equals(c.ask("list /data/again"), "d"))
			qt.Assert(t, qt.Equals(c.ask("list /data/gone"), "deeper"))

			// Removed from the bottom up, what others share stays with them.
			w.remove("g0", "g1")
			qt.Assert(t, qt.IsNil(w.API.RemoveTemplate(t.Context(), "t1")))
			w.killDaemon()
			w.remove("g2")
			qt.Assert(t, qt.IsNil(w.API.RemoveTemplate(t.Context(), "t2")))
			qt.Assert(t, qt.IsNotNil(w.API.RemoveSnapshot(t.Context(), "t4")))
			a := w.clone("t4", "late", nil)
			c = w.caller(a.GetEndpoint())
			qt.Assert(t, qt.Equals(c.ask("list /data"), "again file gone hidden kept"))
			w.RemoveAll()
			w.empty()
		})
	}
}

// tell has commands carried out.
func (c *caller) tell(commands ...string) {
	c.t.Helper()
	for _, command := range commands {
		qt.Assert(c.t, qt.Equals(c.ask("%s", command), "ok"), qt.Commentf("%s", command))
	}
}
