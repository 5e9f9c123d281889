package paths

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
)

// ErrElsewhere is a path in the images of a dump that does not lead to the file that a
// process has.
var ErrElsewhere = errors.New("a file that is open or mapped is not at the path by which CRIU has saved it")

// Check looks at the paths that a dump of the frozen processes names and that [Look] has
// not found to be good: those that were opened since, and those that CRIU has written
// otherwise than the kernel has them. That such a file is the process's own CRIU has
// compared, but for those of /proc; here it is enough that there is one, of that type, on
// that mount. The error wraps [ErrElsewhere] if there is not.
func (s *Seen) Check(ctx context.Context, images string, files []openfile.Saved) error {
	var t *tree
	var wrong []error
	for i := range files {
		f := &files[i]
		if f.External || f.Removed || f.Mount < 0 || f.Mode == 0 || s.good[place{uint64(f.Mount), f.Name}] {
			continue
		}
		if t == nil {
			var err error
			if t, err = openTree(s.pids); err != nil {
				return err
			}
			defer t.close()
		}
		r := t.byMount[uint64(f.Mount)]
		if r == nil {
			continue // in a mount namespace whose root nobody has
		}
		if why := r.wrong(f); why != "" {
			wrong = append(wrong, fmt.Errorf("%w: %s, %s, %s: have the program close it, or try again", ErrElsewhere, user(ctx, images, f), f.Name, why))
		}
	}
	return errors.Join(wrong...)
}

// wrong says what is wrong with a saved path, "" if nothing is.
func (r *root) wrong(f *openfile.Saved) string {
	var now unix.Statx_t
	name := f.Name
	if !r.proc[uint64(f.Mount)] {
		name = strings.TrimSuffix(name, "/")
	}
	switch err := r.stat(name, &now); {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		if f.Link != "" {
			return ""
		}
		return "is not there"
	case err != nil:
		return "can't be looked at: " + err.Error()
	case now.Mnt_id != uint64(f.Mount):
		return "is on another mount now"
	case uint32(now.Mode)&unix.S_IFMT != f.Mode&unix.S_IFMT:
		return "is of another type now"
	}
	return ""
}

// user names a process that has a saved file.
func user(ctx context.Context, images string, f *openfile.Saved) string {
	const unknown = "of a process"
	info, err := inspect.Read(ctx, images)
	if err != nil {
		return unknown
	}
	for i := range info.Files {
		if at := info.Files[i].OpenAt; info.Files[i].ID == f.ID && len(at) > 0 {
			return fmt.Sprintf("descriptor %d of process %d inside the app", at[0].FD, at[0].PID)
		}
	}
	for i := range info.Processes {
		p := &info.Processes[i]
		switch f.Name {
		case p.Cwd:
			return fmt.Sprintf("the working directory of process %d inside the app", p.PID)
		case p.Exe:
			return fmt.Sprintf("the program of process %d inside the app", p.PID)
		case p.Root:
			return fmt.Sprintf("the root directory of process %d inside the app", p.PID)
		}
	}
	return unknown
}
