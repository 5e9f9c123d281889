package absent_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/eventpoll"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	packet "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-packet"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/absent"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/snapshot/image/verify"
)

// dump is what a dump says of open files.
type dump struct {
	Files  map[uint32]*fdinfo.FileEntry
	Tables map[string][]*fdinfo.FdinfoEntry
}

func load(t *testing.T, images string) dump {
	t.Helper()
	d := dump{map[uint32]*fdinfo.FileEntry{}, map[string][]*fdinfo.FdinfoEntry{}}
	files, err := image.ReadMessages[fdinfo.FileEntry](images, "files.img", image.TypeFiles)
	qt.Assert(t, qt.IsNil(err))
	for _, f := range files {
		d.Files[f.GetId()] = f
	}
	names, err := image.Names(images)
	qt.Assert(t, qt.IsNil(err))
	for _, name := range names {
		if strings.HasPrefix(name, "fdinfo-") {
			d.Tables[name], err = image.ReadMessages[fdinfo.FdinfoEntry](images, name, image.TypeFdinfo)
			qt.Assert(t, qt.IsNil(err))
		}
	}
	return d
}

// taken takes the TCP connections out of a dump, as if the processes had not had them, and tells
// what is to be added.
func taken(t *testing.T, images string) (sockets []absent.Socket, epolls []absent.Epoll) {
	t.Helper()
	was := load(t, images)
	info, err := inspect.Read(t.Context(), images)
	qt.Assert(t, qt.IsNil(err))
	inodes := make(map[uint32]uint64) // by file
	places := make(map[uint32]int)
	for _, s := range info.Sockets {
		if s.Protocol != "tcp" || s.State != "ESTABLISHED" {
			continue
		}
		for id, f := range was.Files {
			if f.GetIsk() == nil || uint64(f.GetIsk().GetIno()) != s.Inode {
				continue
			}
			inodes[id], places[id] = s.Inode, len(sockets)
			sockets = append(sockets, absent.Socket{
				Inode: s.Inode, Family: int(f.GetIsk().GetFamily()), State: int(f.GetIsk().GetState()), Flags: int(f.GetIsk().GetFlags()),
				Local: netip.AddrPortFrom(s.Local.Addr().Unmap(), s.Local.Port()), Remote: netip.AddrPortFrom(s.Remote.Addr().Unmap(), s.Remote.Port()),
			})
		}
	}
	names, err := image.Names(images)
	qt.Assert(t, qt.IsNil(err))
	instances := make(map[uint32]int)
	for id, f := range was.Files {
		if f.GetEpfd() == nil {
			continue
		}
		in := absent.Epoll{Flags: int(f.GetEpfd().GetFlags())}
		for _, w := range f.GetEpfd().GetTfd() {
			in.Watches = append(in.Watches, absent.Watch{FD: int(w.GetTfd()), Events: w.GetEvents(), Data: w.GetData(), Inode: w.GetInode(), Device: w.GetDev(), Offset: w.GetPos()})
		}
		instances[id] = len(epolls)
		epolls = append(epolls, in)
	}
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, "ids-")
		if !ok {
			continue
		}
		var pid int
		_, err := fmt.Sscanf(digits, "%d.img", &pid)
		qt.Assert(t, qt.IsNil(err))
		ids, err := image.ReadMessages[core.TaskKobjIdsEntry](images, name, image.TypeIDs)
		qt.Assert(t, qt.IsNil(err))
		table := fmt.Sprintf("fdinfo-%d.img", ids[0].GetFilesId())
		edit(t, images, table, func(msg []byte) []byte {
			var d fdinfo.FdinfoEntry
			qt.Assert(t, qt.IsNil(proto.Unmarshal(msg, &d)))
			at := image.DescriptorRef{PID: pid, FD: int(d.GetFd())}
			place := absent.Place{DescriptorRef: at, CloseOnExec: d.GetFlags() != 0}
			if i, ok := instances[d.GetId()]; ok {
				epolls[i].Places = append(epolls[i].Places, place)
				return nil
			}
			i, ok := places[d.GetId()]
			if !ok {
				return msg
			}
			sockets[i].Places = append(sockets[i].Places, place)
			return nil
		})
	}
	sent := make(map[uint32]bool) // in a unix socket: CRIU finds these all the same
	for _, p := range imagetest.Load[packet.SkPacketEntry](t, images, "sk-queues.img") {
		for _, scm := range p.GetScm() {
			for _, id := range scm.GetRights() {
				sent[id] = true
			}
		}
	}
	edit(t, images, "files.img", func(msg []byte) []byte {
		var f fdinfo.FileEntry
		qt.Assert(t, qt.IsNil(proto.Unmarshal(msg, &f)))
		if _, ok := inodes[f.GetId()]; ok && !sent[f.GetId()] {
			return nil
		}
		if _, ok := instances[f.GetId()]; ok {
			return nil
		}
		return msg
	})
	return sockets, epolls
}

// open is what a descriptor leads to.
type open struct {
	FD, Flags uint32
	File      *fdinfo.FileEntry
}

// tables are the descriptors of a dump, in their order, without what need not be the same.
func (d dump) tables(t *testing.T) map[string][]open {
	t.Helper()
	out := make(map[string][]open)
	for name, fds := range d.Tables {
		for _, fd := range fds {
			f, ok := d.Files[fd.GetId()]
			qt.Assert(t, qt.IsTrue(ok))
			f = proto.CloneOf(f)
			f.Id = nil
			if s := f.GetIsk(); s != nil && s.GetState() != 10 && s.GetProto() == 6 {
				s.Id, s.NsId, s.Backlog, s.V6Only, s.Opts, s.IpOpts, s.TcpOpts = nil, nil, nil, nil, nil, nil, nil
			}
			if e := f.GetEpfd(); e != nil {
				e.Id = nil
				for _, w := range e.GetTfd() {
					w.Id = nil
				}
				slices.SortFunc(e.Tfd, func(a, b *eventpoll.EventpollTfdEntry) int { return int(a.GetTfd()) - int(b.GetTfd()) })
			}
			if f.GetIsk() == nil && f.GetEpfd() == nil { // an id is all that it may have
				f = &fdinfo.FileEntry{Type: f.Type, Id: fd.Id}
			}
			out[name] = append(out[name], open{fd.GetFd(), fd.GetFlags(), f})
		}
	}
	return out
}

// edit changes the messages of an image, and drops those that become nil.
func edit(t *testing.T, images, name string, fn func(msg []byte) []byte) {
	t.Helper()
	path := filepath.Join(images, name)
	data, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	img, err := image.Decode(data)
	qt.Assert(t, qt.IsNil(err))
	var kept []image.Record
	for _, rec := range img.Records {
		if rec.Message = fn(rec.Message); rec.Message != nil {
			kept = append(kept, rec)
		}
	}
	img.Records = kept
	qt.Assert(t, qt.IsNil(os.WriteFile(path, img.Encode(), 0o600)))
}

// What was taken out of a dump of CRIU and is added again is as CRIU wrote it: the same
// descriptors lead to the same sockets, in the same order, and epoll watches the same. Ids are new,
// and a socket has none of the options that only CRIU asks for.
func TestAdd(t *testing.T) {
	for _, name := range imagetest.Names(t) {
		t.Run(name, func(t *testing.T) {
			images := imagetest.Dump(t, name)
			was := load(t, images)
			sockets, epolls := taken(t, images)
			qt.Assert(t, qt.IsTrue(len(sockets) >= 8), qt.Commentf("%d connections", len(sockets)))
			qt.Assert(t, qt.Not(qt.HasLen(epolls, 0)))
			qt.Assert(t, qt.Not(qt.CmpEquals(load(t, images).tables(t), was.tables(t), protocmp.Transform())))
			qt.Assert(t, qt.IsNil(absent.Add(images, sockets, epolls)))
			qt.Check(t, qt.CmpEquals(load(t, images).tables(t), was.tables(t), protocmp.Transform()))
			qt.Check(t, qt.IsNil(verify.Images(t.Context(), images)))
		})
	}
}

// A dump that has something else where a connection belongs is not completed.
func TestAddRefuses(t *testing.T) {
	place := func(pid, fd int) absent.Place {
		return absent.Place{DescriptorRef: image.DescriptorRef{PID: pid, FD: fd}}
	}
	one := func(p absent.Place) []absent.Socket {
		return []absent.Socket{{Inode: 1 << 31, Family: 2, State: 1, Local: netip.MustParseAddrPort("10.0.0.1:1"), Remote: netip.MustParseAddrPort("10.0.0.1:2"), Places: []absent.Place{p}}}
	}
	cases := map[string]struct {
		sockets []absent.Socket
		epolls  []absent.Epoll
		err     string
	}{
		"a descriptor that is there":  {one(place(1, 0)), nil, ".*descriptor 0 of process 1 is there"},
		"a process that is not there": {one(place(99, 3)), nil, ".*process 99 is not in the dump"},
		"two at one number":           {one(place(1, 900)), []absent.Epoll{{Places: []absent.Place{place(1, 900)}}}, ".*descriptor 900 of process 1 is there"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			images := imagetest.Dump(t, "plain")
			err := absent.Add(images, c.sockets, c.epolls)
			qt.Check(t, qt.ErrorMatches(err, c.err))
			qt.Check(t, qt.ErrorIs(err, image.ErrInconsistent))
		})
	}
}
