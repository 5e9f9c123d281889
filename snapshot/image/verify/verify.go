// Package verify tells whether a dump is whole and agrees with itself, by its
// images alone: whether each can be parsed, whether what one refers to is in
// another, and whether sizes fit.
//
// It is for a dump of which nobody has the digests. The messages of all types of
// image that CRIU requires fields of are in message.go.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	sk_packet "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-packet"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
)

// Images tells whether a dump is whole and agrees with itself, so far as that
// can be seen without running it: all images parse, what they refer to is
// there, and memory pages are as many as the pagemaps say. images is CRIU's
// images directory, or an [image.View].
//
// It finds truncated, missing and mixed-up files. It does not find changed
// bytes of memory, which digests are for, nor what keeps this kernel or this
// host from restoring the dump.
//
// The error wraps [wire.ErrMalformed], [image.ErrInconsistent] or [fs.ErrNotExist], and
// names up to 20 problems. It takes about as long as [inspect.Read].
func Images(ctx context.Context, images string) error {
	if err := checkFS(ctx, os.DirFS(images)); err != nil {
		return fmt.Errorf("verify %s: %w", images, err)
	}
	return nil
}

func checkFS(ctx context.Context, fsys fs.FS) error {
	d, err := image.OpenDump(ctx, fsys)
	if err != nil {
		return err
	}
	v := verification{dump: d, pages: make(map[uint32]string)}
	for _, step := range []func(context.Context){
		v.images, v.header, v.fileTable, v.tasks, v.sockets, v.systemV, v.removedFiles,
	} {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		step(ctx)
	}
	if len(v.problems) == 0 {
		// What is left is what only somebody who reads it all would find.
		v.add(inspect.ReadNamespaces(ctx, d))
	}
	return errors.Join(v.problems...)
}

// maxProblems bounds what Verify reports.
const maxProblems = 20

// A verification gathers the problems of a dump.
type verification struct {
	dump     *image.Dump
	problems []error
	pages    map[uint32]string // pages id -> the pagemap that refers to it
}

// add notes a problem, if err is one.
func (v *verification) add(err error) {
	if err != nil && len(v.problems) < maxProblems {
		v.problems = append(v.problems, err)
	}
}

// bad notes a contradiction.
func (v *verification) bad(format string, args ...any) {
	v.add(fmt.Errorf("%w: %s", image.ErrInconsistent, fmt.Sprintf(format, args...)))
}

// images parses every image that has records, and compares its type with its
// name.
func (v *verification) images(ctx context.Context) {
	for _, name := range v.dump.Names {
		want, ok := image.TypeOf(name)
		if !ok || v.dump.Sizes[name] == 0 || ctx.Err() != nil {
			continue
		}
		n := -1
		got, err := image.WalkFile(v.dump.FS, name, func(_ image.Type, msg []byte, _ uint64) error {
			n++
			return checkMessage(want, n, msg)
		})
		if got != want && got != 0 {
			v.bad("%s is of type %s", name, got)
		} else {
			v.add(err)
		}
	}
}

// header checks the inventory and the process tree.
func (v *verification) header(context.Context) {
	if version := v.dump.Inventory.GetImgVersion(); version < 1 || version > 2 {
		v.bad("inventory.img: image version %d", version) // CRTOOLS_IMAGES_V1 and V1_1
	}
	seen := make(map[uint32]struct{})
	unique := func(id uint32) {
		if _, dup := seen[id]; dup || id == 0 {
			v.bad("pstree.img: process or thread %d is there twice, or is 0", id)
		}
		seen[id] = struct{}{}
	}
	if len(v.dump.Tree) == 0 {
		v.bad("pstree.img: no process")
	}
	for i, p := range v.dump.Tree {
		_, parent := seen[p.GetPpid()]
		switch {
		case i == 0 && p.GetPpid() != 0:
			v.bad("pstree.img: the first process, %d, has parent %d", p.GetPid(), p.GetPpid())
		case i > 0 && !parent:
			v.bad("pstree.img: process %d comes before its parent %d", p.GetPid(), p.GetPpid())
		}
		unique(p.GetPid())
		for j, tid := range p.GetThreads() {
			if j > 0 { // the first is the process itself
				unique(tid)
			}
		}
	}
}

// fileTable checks files.img on its own.
func (v *verification) fileTable(context.Context) {
	seen := make(map[uint32]struct{}, len(v.dump.Files))
	for _, f := range v.dump.Files {
		id := f.GetId()
		if _, dup := seen[id]; dup {
			v.bad("files.img: file %#x is there twice", id)
		}
		seen[id] = struct{}{}
		inner, ok := innerID(f)
		switch {
		case !ok:
			v.bad("files.img: file %#x has no entry of its type %s", id, f.GetType())
		case inner != id:
			v.bad("files.img: file %#x is %#x inside", id, inner)
		}
		if reg := f.GetReg(); reg != nil && reg.GetName() == "" {
			v.bad("files.img: file %#x has no name", id) // CRIU would read past its end
		}
	}
}

// innerID returns the id in the part of an entry that its type calls for.
func innerID(f *fdinfo.FileEntry) (uint32, bool) {
	var part interface {
		proto.Message
		GetId() uint32
	}
	switch f.GetType() {
	case fdinfo.FdTypes_REG:
		part = f.GetReg()
	case fdinfo.FdTypes_PIPE:
		part = f.GetPipe()
	case fdinfo.FdTypes_FIFO:
		part = f.GetFifo()
	case fdinfo.FdTypes_INETSK:
		part = f.GetIsk()
	case fdinfo.FdTypes_UNIXSK:
		part = f.GetUsk()
	case fdinfo.FdTypes_EVENTFD:
		part = f.GetEfd()
	case fdinfo.FdTypes_EVENTPOLL:
		part = f.GetEpfd()
	case fdinfo.FdTypes_INOTIFY:
		part = f.GetIfy()
	case fdinfo.FdTypes_SIGNALFD:
		part = f.GetSgfd()
	case fdinfo.FdTypes_PACKETSK:
		part = f.GetPsk()
	case fdinfo.FdTypes_TTY:
		part = f.GetTty()
	case fdinfo.FdTypes_FANOTIFY:
		part = f.GetFfy()
	case fdinfo.FdTypes_NETLINKSK:
		part = f.GetNlsk()
	case fdinfo.FdTypes_NS:
		part = f.GetNsf()
	case fdinfo.FdTypes_TUNF:
		part = f.GetTunf()
	case fdinfo.FdTypes_EXT:
		part = f.GetExt()
	case fdinfo.FdTypes_TIMERFD:
		part = f.GetTfd()
	case fdinfo.FdTypes_MEMFD:
		part = f.GetMemfd()
	case fdinfo.FdTypes_BPFMAP:
		part = f.GetBpf()
	case fdinfo.FdTypes_PIDFD:
		part = f.GetPidfd()
	case fdinfo.FdTypes_UND, fdinfo.FdTypes_CTL_TTY, fdinfo.FdTypes_AUTOFS_PIPE:
	}
	if part == nil || !part.ProtoReflect().IsValid() {
		return 0, false
	}
	return part.GetId(), true
}

// sockets checks what belongs to sockets.
func (v *verification) sockets(context.Context) {
	for _, f := range v.dump.Files {
		isk := f.GetIsk()
		if isk == nil || v.dump.Inventory.GetTcpClose() || isk.GetProto() != unix.IPPROTO_TCP {
			continue
		}
		// tcp_connection in criu/sk-inet.c.
		if state := isk.GetState(); state == tcpListen || state == tcpClose {
			continue
		}
		if name := fmt.Sprintf("tcp-stream-%x.img", isk.GetIno()); !v.dump.Has(name) {
			v.bad("files.img: connection %d (%s) without %s", isk.GetIno(), inspect.StateName(isk.GetState()), name)
		}
	}
	if !v.dump.Has("sk-queues.img") {
		return
	}
	packets, err := image.ReadAll[sk_packet.SkPacketEntry](v.dump, "sk-queues.img", image.TypeSkQueues)
	v.add(err)
	for _, p := range packets {
		v.needFile("sk-queues.img", "receiver", p.GetIdFor())
		for _, scm := range p.GetScm() {
			for _, id := range scm.GetRights() {
				v.needFile("sk-queues.img", "passed file", id)
			}
		}
	}
}

// needFile checks a reference to a file, which has to be of one of the types
// if there are any.
func (v *verification) needFile(where, what string, id uint32, types ...fdinfo.FdTypes) {
	f, ok := v.dump.ByID[id]
	if !ok {
		v.bad("%s: %s is file %#x, which is not in files.img", where, what, id)
		return
	}
	for _, t := range types {
		if f.GetType() == t {
			return
		}
	}
	if len(types) > 0 {
		v.bad("%s: %s is file %#x, which is of type %s", where, what, id, strings.ToLower(f.GetType().String()))
	}
}
