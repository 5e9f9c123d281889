// Package absent completes a dump by TCP connections that CRIU did not see, so that it had not to
// save them: it needs 75 us for each while the processes stand still. Nothing of that is used, for
// a restore gives the processes the live sockets, or closed ones.
//
// [Add] writes what CRIU would have written: an entry in files.img for each socket, one in the
// table of descriptors of each process that has it open, and the same of epoll instances. So
// nobody who reads the dump afterwards has to know. Of a socket's options there are only those
// without which CRIU restores no socket: a live one has its own, and a closed one can do nothing
// with them. The entries were compared with those that CRIU 4.2 writes (sk-inet.c,
// do_dump_one_inet_fd; files.c, dump_one_file; eventpoll.c, dump_one_eventpoll).
package absent

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/eventpoll"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	inet "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-inet"
	opts "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-opts"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// Socket is a TCP connection that CRIU did not see.
type Socket struct {
	Inode         uint64
	Family        int // AF_INET or AF_INET6
	State         int // as the kernel numbers it, include/net/tcp_states.h
	Local, Remote netip.AddrPort
	Flags         int // F_GETFL
	Places        []Place
}

// Place is where it was open.
type Place struct {
	image.DescriptorRef
	CloseOnExec bool
}

// Epoll is an epoll instance, which watches some of the sockets, and that CRIU did not see either.
type Epoll struct {
	Flags   int // F_GETFL
	Places  []Place
	Watches []Watch // all of them
}

// Watch is what an epoll instance watches a descriptor for.
type Watch struct {
	FD     int // the descriptor, by the number that it was registered with
	Events uint32
	Data   uint64
	Inode  uint64 // of what is watched
	Device uint32 // likewise
	Offset uint64 // likewise
}

// Add completes the dump in the directory images, which is not in use yet: it changes the files in
// place. It returns an error wrapping [image.ErrInconsistent] if a process is not in the dump, or has
// another file where something belongs.
func Add(images string, sockets []Socket, epolls []Epoll) error {
	if len(sockets) == 0 {
		return nil
	}
	e := edit{images: images, tables: make(map[int]*table)}
	if err := e.add(sockets, epolls); err != nil {
		return fmt.Errorf("add connections to images: %w", err)
	}
	return nil
}

// edit is one run over the images.
type edit struct {
	images string
	files  *image.Image
	tables map[int]*table // by process
}

// table is a table of descriptors.
type table struct {
	name  string
	img   *image.Image
	more  []image.Record
	taken map[int]bool // the numbers that lead to a file
}

func (e *edit) add(sockets []Socket, epolls []Epoll) error {
	var err error
	if e.files, err = e.read(image.FilesImage, image.TypeFiles); err != nil {
		return err
	}
	known, next, err := e.known()
	if err != nil {
		return err
	}
	for i := range sockets {
		s := &sockets[i]
		id, ok := known[s.Inode] // it waits in the queue of a unix socket, too
		if !ok {
			next++
			id = next
			if err := e.file(s.entry(id)); err != nil {
				return err
			}
		}
		if err := e.open(id, fdinfo.FdTypes_INETSK, s.Places); err != nil {
			return err
		}
	}
	for i := range epolls {
		next++
		if err := e.file(epolls[i].entry(next)); err != nil {
			return err
		}
		if err := e.open(next, fdinfo.FdTypes_EVENTPOLL, epolls[i].Places); err != nil {
			return err
		}
	}
	for _, t := range e.tables {
		if err := t.complete(); err != nil {
			return err
		}
		if err := e.write(t.name, t.img); err != nil {
			return err
		}
	}
	return e.write(image.FilesImage, e.files)
}

// known lists the inet sockets that the dump has, by inode, and the largest id of a file.
func (e *edit) known() (known map[uint64]uint32, last uint32, err error) {
	known = make(map[uint64]uint32)
	for i, rec := range e.files.Records {
		f, err := image.ParseOpenFile(rec.Message)
		if err != nil {
			return nil, 0, fmt.Errorf("read file %d: %w", i, err)
		}
		last = max(last, f.ID)
		if f.Kind == image.FileInetSk {
			known[f.Inode] = f.ID
		}
	}
	return known, last, nil
}

// entry is what files.img has of a socket.
func (s *Socket) entry(id uint32) *fdinfo.FileEntry {
	return &fdinfo.FileEntry{
		Type: fdinfo.FdTypes_INETSK.Enum(), Id: &id,
		Isk: &inet.InetSkEntry{
			Id: &id, Ino: new(uint32(s.Inode)), Family: new(uint32(s.Family)), Type: new(uint32(unix.SOCK_STREAM)), Proto: new(uint32(unix.IPPROTO_TCP)), //nolint:gosec // small numbers; inode numbers of sockets have 32 bits (fs/inode.c, get_next_ino)
			State: new(uint32(s.State)), SrcPort: new(uint32(s.Local.Port())), DstPort: new(uint32(s.Remote.Port())), //nolint:gosec // a small number
			Flags: new(uint32(s.Flags)), Backlog: new(uint32(0)), //nolint:gosec // flags
			SrcAddr: s.address(s.Local), DstAddr: s.address(s.Remote),
			Fown: nobody(),
			Opts: &opts.SkOptsEntry{
				SoSndbuf: new(uint32(0)), SoRcvbuf: new(uint32(0)), // the smallest
				SoSndTmoSec: new(uint64(0)), SoSndTmoUsec: new(uint64(0)), SoRcvTmoSec: new(uint64(0)), SoRcvTmoUsec: new(uint64(0)),
			},
		},
	}
}

// entry is what files.img has of an epoll instance.
func (p *Epoll) entry(id uint32) *fdinfo.FileEntry {
	out := &eventpoll.EventpollFileEntry{Id: &id, Flags: new(uint32(p.Flags)), Fown: nobody()} //nolint:gosec // flags
	for i := range p.Watches {
		w := &p.Watches[i]
		out.Tfd = append(out.Tfd, &eventpoll.EventpollTfdEntry{
			Id: &id, Tfd: new(uint32(w.FD)), Events: &w.Events, Data: &w.Data, Dev: &w.Device, Inode: &w.Inode, Pos: &w.Offset, //nolint:gosec // a number of a descriptor
		})
	}
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_EVENTPOLL.Enum(), Id: &id, Epfd: out}
}

// nobody is sent signals.
func nobody() *fown.FownEntry {
	return &fown.FownEntry{Uid: new(uint32(0)), Euid: new(uint32(0)), Signum: new(uint32(0)), PidType: new(uint32(0)), Pid: new(uint32(0))}
}

// file adds a file.
func (e *edit) file(entry *fdinfo.FileEntry) error {
	msg, err := proto.Marshal(entry)
	e.files.Records = append(e.files.Records, image.Record{Message: msg})
	return err
}

// address is in the order of the network; an IPv6 socket has IPv4 addresses mapped.
func (s *Socket) address(a netip.AddrPort) []uint32 {
	var b []byte
	if s.Family == unix.AF_INET {
		four := a.Addr().Unmap().As4()
		b = four[:]
	} else {
		sixteen := a.Addr().As16()
		b = sixteen[:]
	}
	var out []uint32
	for ; len(b) > 0; b = b[4:] {
		out = append(out, binary.NativeEndian.Uint32(b))
	}
	return out
}

// open adds descriptors of a file.
func (e *edit) open(id uint32, kind fdinfo.FdTypes, places []Place) error {
	for _, p := range places {
		t, err := e.table(p.PID)
		if err != nil {
			return err
		}
		if t.taken[p.FD] {
			return fmt.Errorf("%w: descriptor %d of process %d is there", image.ErrInconsistent, p.FD, p.PID)
		}
		t.taken[p.FD] = true
		flags := uint32(0)
		if p.CloseOnExec {
			flags = unix.FD_CLOEXEC
		}
		msg, err := proto.Marshal(&fdinfo.FdinfoEntry{Id: &id, Flags: &flags, Type: &kind, Fd: new(uint32(p.FD))}) //nolint:gosec // a number of a descriptor
		if err != nil {
			return err
		}
		t.more = append(t.more, image.Record{Message: msg})
	}
	return nil
}

// table reads a process's table of descriptors.
func (e *edit) table(pid int) (*table, error) {
	if t, ok := e.tables[pid]; ok {
		return t, nil
	}
	id, err := image.FileTable(e.images, pid)
	if err != nil {
		return nil, err
	}
	if id == 0 {
		return nil, fmt.Errorf("%w: process %d is not in the dump", image.ErrInconsistent, pid)
	}
	t := &table{name: fmt.Sprintf("fdinfo-%d.img", id), taken: make(map[int]bool)}
	if t.img, err = e.read(t.name, image.TypeFdinfo); err != nil {
		return nil, err
	}
	for _, rec := range t.img.Records {
		values, err := wire.Varints(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", t.name, err)
		}
		t.taken[int(values[fdinfoNumber])] = true //nolint:gosec // a number of a descriptor
	}
	e.tables[pid] = t
	return t, nil
}

// complete puts the new descriptors among the others, by their numbers.
func (t *table) complete() error {
	all := slices.Concat(t.img.Records, t.more)
	numbers := make(map[*byte]uint64, len(all))
	for _, rec := range all {
		values, err := wire.Varints(rec.Message)
		if err != nil {
			return err
		}
		numbers[&rec.Message[0]] = values[fdinfoNumber]
	}
	slices.SortStableFunc(all, func(a, b image.Record) int {
		return cmp.Compare(numbers[&a.Message[0]], numbers[&b.Message[0]])
	})
	t.img.Records = all
	return nil
}

const fdinfoNumber = 4 // fdinfo_entry.fd

// read reads an image. CRIU writes none of a process that has nothing open.
func (e *edit) read(name string, want image.Type) (*image.Image, error) {
	data, err := os.ReadFile(filepath.Join(e.images, name))
	if errors.Is(err, os.ErrNotExist) {
		return &image.Image{Type: want}, nil
	}
	if err != nil {
		return nil, err
	}
	img, err := image.DecodeAs(want, data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	img.Type, img.Head = want, image.HeadCommon
	return img, nil
}

func (e *edit) write(name string, img *image.Image) error {
	if err := os.WriteFile(filepath.Join(e.images, name), img.Encode(), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
