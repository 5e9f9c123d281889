// Package pty reads the pseudo-terminals of a dump, and edits them in the images.
//
// CRIU can't restore all of them by itself. [Place] turns open files of /dev/tty, which CRIU
// does not save, into files of the terminal that they led to. [Read] and [Inherit] have CRIU
// take over terminals that its caller has made before, where several processes of a
// session have one as their controlling terminal: a [Pair] is the two ends of one.
package pty

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/tty"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// Pair is a pseudo-terminal of a dump whose master is open.
type Pair struct {
	Number int    // N of /dev/pts/N
	Key    string // under which CRIU is to inherit the master
	Flags  int    // of the master's open file
	Packet bool   // the master reads packets, TIOCPKT
	// UID and GID own the slave; -1 if the dump does not say.
	UID, GID int
	Size     unix.Winsize
	// Child names the image that the leader of the terminal's session reads right before
	// it makes the first process that stays in the session; empty if there is none.
	Child string
}

// Terminals are the pseudo-terminals of a dump that can be made before its processes are.
type Terminals struct {
	Dir     string            // where the app has them mounted
	Options map[string]string // of the mount
	Flags   uint64            // of the mount, as in mount(2)
	Pairs   []Pair            // by number
	// Leaders names the images that are read right before leaders of sessions are made
	// that read another one from their terminal.
	Leaders []string
}

// ErrOnlyCRIU are pseudo-terminals that CRIU alone can make.
var ErrOnlyCRIU = errors.New("only CRIU can make the terminals")

// Read lists the pseudo-terminals of a dump if one of them is the controlling
// terminal of more than the leader of its session: to CRIU the leader gets it last, when
// the others have been made and can't inherit it any more (see [Inherit]).
// Otherwise it returns nil. An error wrapping [ErrOnlyCRIU] says why they can't be made
// so.
func Read(images string) (*Terminals, error) {
	infos, err := ttyInfos(images)
	if err != nil || len(infos) == 0 {
		return nil, err
	}
	tree, err := image.ReadMessages[pstree.PstreeEntry](images, "pstree.img", image.TypePstree)
	if err != nil {
		return nil, fmt.Errorf("read processes: %w", err)
	}
	if len(tree) == 0 {
		return nil, fmt.Errorf("read processes: %w: there are none", wire.ErrMalformed)
	}
	t := &Terminals{}
	children := make(map[uint32]bool)
	leaders := make(map[uint32]bool)
	for id, info := range infos {
		if !isMaster(info) {
			continue
		}
		number := int(id >> 1)
		slave := infos[slaveInfo(number)]
		p := Pair{
			Number: number, Key: pairKey(number), Packet: info.GetPacketMode(), UID: -1, GID: -1,
			Size: unix.Winsize{
				Row: uint16(info.GetWinsize().GetWsRow()), Col: uint16(info.GetWinsize().GetWsCol()),
				Xpixel: uint16(info.GetWinsize().GetWsXpixel()), Ypixel: uint16(info.GetWinsize().GetWsYpixel()),
			},
		}
		if slave != nil && slave.Uid != nil && slave.Gid != nil {
			p.UID, p.GID = int(slave.GetUid()), int(slave.GetGid())
		}
		sid := cmp.Or(info.GetSid(), slave.GetSid())
		if child := firstBorn(tree, sid); child != 0 {
			p.Child, children[child], leaders[sid] = image.CoreName(child), true, true
		}
		if leaders[tree[0].GetPid()] {
			err = fmt.Errorf("%w: the app's first process leads the session of one", ErrOnlyCRIU)
		}
		if info.GetLocked() {
			err = fmt.Errorf("%w: /dev/pts/%d is locked", ErrOnlyCRIU, number)
		}
		t.Pairs = append(t.Pairs, p)
	}
	if len(leaders) == 0 {
		return nil, nil
	}
	for _, leader := range slices.Sorted(maps.Keys(leaders)) {
		if !children[leader] { // else the leader of another session reads it from a terminal
			t.Leaders = append(t.Leaders, image.CoreName(leader))
		}
	}
	slices.SortFunc(t.Pairs, func(a, b Pair) int { return cmp.Compare(a.Number, b.Number) })
	return t, errors.Join(err, t.readFiles(images, infos), t.readData(images))
}

// isMaster tells whether an entry is of a master that is open and leads somewhere.
func isMaster(info *tty.TtyInfoEntry) bool {
	return info.GetType() == tty.TtyType_PTY && info.GetId()&1 == 1 && info.Termios != nil
}

// firstBorn is the first process that the leader of a session makes that stays in the
// session, or whose own children do; 0 if there is none. CRIU makes children in the
// reverse order of pstree.img (criu/pstree.c, read_one_pstree_item).
func firstBorn(tree []*pstree.PstreeEntry, sid uint32) uint32 {
	if sid == 0 {
		return 0
	}
	parents := make(map[uint32]uint32, len(tree))
	for _, e := range tree {
		parents[e.GetPid()] = e.GetPpid()
	}
	stays := make(map[uint32]bool) // children of the leader
	for _, e := range tree {
		if e.GetSid() != sid || e.GetPid() == sid {
			continue
		}
		at := e.GetPid()
		for steps := 0; parents[at] != sid && at != 0 && steps <= len(tree); steps++ {
			at = parents[at]
		}
		if at != 0 {
			stays[at] = true
		}
	}
	for _, e := range slices.Backward(tree) {
		if stays[e.GetPid()] {
			return e.GetPid()
		}
	}
	return 0
}

// pairKey is CRIU's name of a terminal that it inherits (criu/tty.c, tty_d_name): of its
// device number and that of its file system, of which the latter is ours to choose.
func pairKey(number int) string {
	return fmt.Sprintf("tty[%x:%x]", masterDevice, pairDevice(number))
}

const masterDevice = 5<<8 | 2 // /dev/ptmx

func pairDevice(number int) uint32 { return math.MaxUint32>>1 - uint32(number) }

// readFiles finds where the terminals' files are.
func (t *Terminals) readFiles(images string, infos map[uint32]*tty.TtyInfoEntry) error {
	files, err := image.ReadMessages[fdinfo.FileEntry](images, image.FilesImage, image.TypeFiles)
	if err != nil {
		return fmt.Errorf("read terminals: %w", err)
	}
	regs := make(map[uint32]*fdinfo.FileEntry)
	for _, f := range files {
		if f.GetType() == fdinfo.FdTypes_REG {
			regs[f.GetId()] = f
		}
	}
	mounts := make(map[int32]bool)
	for _, f := range files {
		info := infos[f.GetTty().GetTtyInfoId()]
		if f.GetType() != fdinfo.FdTypes_TTY || info.GetType() != tty.TtyType_PTY {
			continue
		}
		reg := regs[f.GetTty().GetRegfId()].GetReg()
		if reg == nil {
			return fmt.Errorf("%w: %w: terminal %#x has no file", ErrOnlyCRIU, wire.ErrMalformed, f.GetId())
		}
		mounts[reg.GetMntId()] = true
		if !isMaster(info) {
			continue
		}
		i := slices.IndexFunc(t.Pairs, func(p Pair) bool { return p.Number == int(info.GetId()>>1) })
		t.Pairs[i].Flags = int(f.GetTty().GetFlags())
	}
	return t.readMount(images, mounts)
}

// readMount finds the one mount on which all terminals are.
func (t *Terminals) readMount(images string, mounts map[int32]bool) error {
	names, err := image.Names(images)
	if err != nil {
		return fmt.Errorf("read terminals: %w", err)
	}
	found := 0
	for _, name := range names {
		if !strings.HasPrefix(name, "mountpoints-") {
			continue
		}
		entries, err := image.ReadMessages[mnt.MntEntry](images, name, image.TypeMounts)
		if err != nil {
			return fmt.Errorf("read terminals: %w", err)
		}
		for _, m := range entries {
			if m.GetFstype() != uint32(mnt.Fstype_DEVPTS) {
				continue
			}
			found++
			if m.GetRoot() != "/" || m.ExtKey != nil || len(mounts) != 1 || !mounts[int32(m.GetMntId())] {
				found++
			}
			// "./dev/pts" in the images.
			t.Dir, t.Flags, t.Options = path.Join("/", m.GetMountpoint()), uint64(m.GetFlags()), make(map[string]string)
			for option := range strings.SplitSeq(m.GetOptions(), ",") {
				if key, value, _ := strings.Cut(option, "="); key != "" {
					t.Options[key] = value
				}
			}
		}
	}
	if found != 1 {
		return fmt.Errorf("%w: they are not all on one mount", ErrOnlyCRIU)
	}
	return nil
}

// readData looks for terminals of which CRIU itself has saved waiting data.
func (t *Terminals) readData(images string) error {
	data, err := image.ReadRecords(filepath.Join(images, "tty-data.img"), image.TypeTTYData)
	if err == nil && len(data) > 0 {
		err = fmt.Errorf("%w: something waits in one", ErrOnlyCRIU)
	}
	return err
}

// ttyInfos reads what the dump says of terminals, by id.
func ttyInfos(images string) (map[uint32]*tty.TtyInfoEntry, error) {
	all, err := image.ReadMessages[tty.TtyInfoEntry](images, ttyInfoImage, image.TypeTTYInfo)
	if err != nil {
		return nil, fmt.Errorf("read terminals: %w", err)
	}
	infos := make(map[uint32]*tty.TtyInfoEntry, len(all))
	for _, info := range all {
		infos[info.GetId()] = info
	}
	return infos, nil
}
