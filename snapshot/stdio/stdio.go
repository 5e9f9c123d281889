// Package stdio gives CRIU's names to an app's standard streams that are outside of the
// app's file systems: its log, FIFOs, or a terminal whose master is somebody else's. CRIU
// does not save them; at a restore it is given others in their place.
package stdio

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what a stream is.
type Kind int

// The kinds of streams.
const (
	File     Kind = iota // a regular file
	FIFO                 // a FIFO, with somebody at its other end
	Terminal             // the slave of a pseudo-terminal
)

// Stream is one file outside of the app that is among its standard streams.
type Stream struct {
	Kind Kind
	// FD is the first of the descriptors 0, 1 and 2 that the file is meant for.
	FD int
	// Key is CRIU's name for it: an --external value at a dump, what is inherited at a
	// restore.
	Key string
	// Flags are those with which the root process has it open (as in open(2)), if it has.
	Flags int
}

// Find names the streams of an app whose root process is pid. files are the standard
// streams as the caller has opened them, nil for those that are the app's own. The process
// may have closed or replaced each of them; another process of the app may still have it.
func Find(pid int, files [3]*os.File) ([]Stream, error) {
	var list []Stream
	seen := make(map[string]bool)
	for fd, f := range files {
		if f == nil {
			continue
		}
		s, err := find(pid, fd, f)
		if err != nil {
			return nil, fmt.Errorf("name standard stream %d: %w", fd, err)
		}
		if !seen[s.Key] {
			seen[s.Key] = true
			list = append(list, s)
		}
	}
	return list, nil
}

func find(pid, fd int, f *os.File) (Stream, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Stream{}, err
	}
	s := Stream{FD: fd}
	own, err := fdinfo("self", int(f.Fd()))
	if err != nil {
		return Stream{}, err
	}
	mount := own.mount
	for _, at := range []int{fd, 0, 1, 2} {
		var open unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, at), &open) != nil || open.Ino != st.Ino || open.Dev != st.Dev {
			continue // the program has closed or replaced it
		}
		// A shell does so for each of its commands, and back.
		if info, err := fdinfo(strconv.Itoa(pid), at); err == nil && info.inode == st.Ino {
			mount, s.Flags = info.mount, info.flags
			break
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		// criu/tty.c, get_tty_driver
		s.Kind, s.Key = Terminal, fmt.Sprintf("tty[%x:%x]", st.Rdev, st.Dev)
		return s, nil
	case unix.S_IFIFO:
		s.Kind = FIFO
	case unix.S_IFREG:
		s.Kind = File
	default:
		return s, errors.New("it is neither a file nor a FIFO nor a terminal")
	}
	// A file outside of the app's mounts: file[<mount id>:<inode>], both hexadecimal
	// (criu/files-reg.c, dump_one_reg_file). The mount id is the one that the process
	// knows the file by.
	s.Key = fmt.Sprintf("file[%x:%x]", mount, st.Ino)
	return s, nil
}

// InheritKey is the name by which CRIU inherits a stream with this key. It looks an
// inherited file up by its path without the first character, which it takes for a slash
// (criu/files-reg.c, open_path), and then neither checks size and mode, since a log has
// grown, nor puts bytes into a FIFO, which still has them.
func InheritKey(key string) string {
	if strings.HasPrefix(key, "file[") {
		return key[1:]
	}
	return key
}

// openFile is what the kernel tells of an open file.
type openFile struct {
	mount int
	inode uint64
	flags int
}

// fdinfo reads mount, inode and flags of a process's open file, all at the same time
// (fs/proc/fd.c, seq_show; Linux 5.14).
func fdinfo(pid string, fd int) (o openFile, err error) {
	path := fmt.Sprintf("/proc/%s/fdinfo/%d", pid, fd)
	b, err := os.ReadFile(path)
	if err != nil {
		return o, err
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "mnt_id":
			o.mount, err = strconv.Atoi(value)
		case "ino":
			o.inode, err = strconv.ParseUint(value, 10, 64)
		case "flags":
			var flags uint64
			flags, err = strconv.ParseUint(value, 8, 32)
			o.flags = int(flags) &^ unix.O_CLOEXEC
		}
		if err != nil {
			return o, fmt.Errorf("read %s: %w", path, err)
		}
	}
	if o.mount == 0 || o.inode == 0 {
		return o, fmt.Errorf("read %s: no mnt_id or ino in it", path)
	}
	return o, nil
}
