package restore

import (
	"os"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

func TestPlanOptions(t *testing.T) {
	all := []snapshot.External{
		{Kind: snapshot.ExternalNet, Key: "net"},
		{Kind: snapshot.ExternalLog, Key: "file[1:2]"},
		{Kind: snapshot.ExternalDev, Key: "dev", Path: "/dev"},
		{Kind: snapshot.ExternalBind, Key: "bind0", Path: "/data"},
		{Kind: snapshot.ExternalIPC, Key: "ipc"},
	}
	whole := Place{Net: os.Stdin, IPC: true, Stdio: [3]*os.File{1: os.Stderr}, Dev: "/run/dev", Binds: map[string]string{"/data": "/srv"}}
	tests := map[string]struct {
		change func(*Place)
		err    string
	}{
		"whole":      {func(*Place) {}, ""},
		"no network": {func(p *Place) { p.Net = nil }, ".*incomplete: net net"},
		"no ipc":     {func(p *Place) { p.IPC = false }, ".*incomplete: ipc ipc"},
		"no log":     {func(p *Place) { p.Stdio = [3]*os.File{} }, ".*incomplete: log .*"},
		"no dev":     {func(p *Place) { p.Dev = "" }, ".*incomplete: dev dev/dev"},
		"no bind":    {func(p *Place) { p.Binds = nil }, ".*incomplete: bind bind0/data"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(&snapshot.Manifest{External: all}, nil)
			qt.Assert(t, qt.IsNil(err))
			at := whole
			tt.change(&at)
			qt.Assert(t, qt.IsNil(p.openStreams(at)))
			defer func() { qt.Check(t, qt.IsNil(p.streams.close())) }()
			o, err := p.options(at)
			if tt.err != "" {
				qt.Assert(t, qt.ErrorMatches(err, tt.err))
				qt.Assert(t, qt.ErrorIs(err, ErrIncomplete))
				return
			}
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.DeepEquals(o.External, []string{"mnt[dev]:/run/dev", "mnt[bind0]:/srv"}))
			qt.Assert(t, qt.Equals(o.Inherit[len(o.Inherit)-1].Key, "ile[1:2]")) // CRIU drops what it takes for a slash
		})
	}
}

func TestPlanKeepsWhatTheImagesHave(t *testing.T) {
	p, err := NewPlan(&snapshot.Manifest{}, []Held{
		{Inode: 17, File: os.Stdin},
		{Inode: 18, File: os.Stderr},
		{At: image.DescriptorRef{PID: 1, FD: 3}, File: os.Stdin},
		{At: image.DescriptorRef{PID: 1, FD: 4}, File: os.Stdin},
	})
	qt.Assert(t, qt.IsNil(err))
	p.keep(map[uint64]openfile.Replaced{17: {}}, map[string]openfile.Replaced{"3-1-held-file": {}})
	o, err := p.options(Place{})
	qt.Assert(t, qt.IsNil(err))
	keys := make([]string, 0, 2)
	for _, in := range o.Inherit {
		keys = append(keys, in.Key)
	}
	slices.Sort(keys)
	qt.Assert(t, qt.DeepEquals(keys, []string{"11-held-socket", "3-1-held-file"}))

	_, err = NewPlan(&snapshot.Manifest{}, []Held{{Inode: 17}, {Inode: 17}})
	qt.Assert(t, qt.ErrorMatches(err, ".*socket 17 is held twice"))
	at := image.DescriptorRef{PID: 1, FD: 3}
	_, err = NewPlan(&snapshot.Manifest{}, []Held{{At: at}, {At: at}})
	qt.Assert(t, qt.ErrorMatches(err, ".*descriptor 3 of process 1 is held twice"))
}
