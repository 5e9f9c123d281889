package template

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// identity is who owns a file. The zero value is root.
type identity struct{ uid, gid int }

func ownerOf(info fs.FileInfo) identity {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return identity{int(st.Uid), int(st.Gid)}
	}
	return identity{}
}

// LookupUser reads USER, UID, USER:GROUP or UID:GID as the owner of a file of the
// rules is read: by the passwd(5) and group(5) of the clone, whose root directory root
// is. Symbolic links lead where the clone would see them lead, and never out of root.
// The clone may run.
func LookupUser(root, text string) (uid, gid uint32, err error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return 0, 0, fmt.Errorf("user %q: %w", text, err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	id, err := cloneTree{root: dir}.identity(text)
	if err != nil {
		return 0, 0, fmt.Errorf("user %w", err)
	}
	return uint32(id.uid), uint32(id.gid), nil
}

// identity reads USER, UID, USER:GROUP or UID:GID by the clone's own passwd(5) and
// group(5). Without a group, a user has the one of its entry, and an id that has
// none the group of the same id.
func (t cloneTree) identity(text string) (identity, error) {
	user, group, hasGroup := strings.Cut(text, ":")
	entry, err := t.entry("/etc/passwd", user)
	if err != nil {
		return identity{}, fmt.Errorf("%q: %w", text, err)
	}
	var id identity
	if id.uid, err = number(entry, 2, user); err != nil {
		return identity{}, fmt.Errorf("%q: the clone's /etc/passwd has no such user", text)
	}
	if !hasGroup {
		if id.gid, err = number(entry, 3, strconv.Itoa(id.uid)); err != nil {
			return identity{}, fmt.Errorf("%q: its entry in the clone's /etc/passwd has no group", text)
		}
		return id, nil
	}
	if entry, err = t.entry("/etc/group", group); err != nil {
		return identity{}, fmt.Errorf("%q: %w", text, err)
	}
	if id.gid, err = number(entry, 2, group); err != nil {
		return identity{}, fmt.Errorf("%q: the clone's /etc/group has no such group", text)
	}
	return id, nil
}

// number is a field of an entry, or fallback if there is no entry.
func number(entry []string, field int, fallback string) (int, error) {
	if len(entry) > field {
		fallback = entry[field]
	}
	// 2^32-1 is "no change" to chown(2).
	n, err := strconv.ParseUint(fallback, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, fmt.Errorf("%q is no id", fallback)
	}
	return int(n), nil
}

// maxRead bounds what is read of the app's files.
const maxRead = 16 << 20

// read returns the content of a file, which the app may have made anything else:
// opening a FIFO would wait for ever, and a device may have no end.
func (t cloneTree) read(name string) (_ []byte, err error) {
	f, err := t.root.OpenFile(local(name), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRead {
		return nil, errors.New("it is no file of a sensible size")
	}
	return io.ReadAll(io.LimitReader(f, maxRead))
}

// entry is the line of a file such as passwd(5) whose name is this one, or
// whose id; nil if there is none.
func (t cloneTree) entry(file, name string) ([]string, error) {
	where, err := t.resolve(file, followLast)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	text, err := t.read(where)
	if ignoreMissing(err) != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(fields) > 2 && (fields[0] == name || fields[2] == name) {
			return fields, nil
		}
	}
	return nil, nil
}
