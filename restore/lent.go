package restore

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/stdio"
)

// openLent makes a descriptor of each held file of a bind, from which CRIU maps what the
// processes had mapped of that file. In the images a mapping still has CRIU's own name for
// the file, and CRIU takes what it inherits under that name. A descriptor that may be written
// to will do for every mapping.
func (p *Plan) openLent() error {
	p.lent = make(map[string]*os.File)
	for _, e := range p.external {
		if e.Kind != snapshot.ExternalFile {
			continue
		}
		h, ok := p.held[p.Files[image.DescriptorRef{PID: e.PID, FD: e.FD}]]
		key := stdio.InheritKey(e.Key) // as for the app's log
		better := e.Open.Flags&unix.O_ACCMODE == unix.O_RDWR
		if !ok || p.lent[key] != nil && !better {
			continue
		}
		// One descriptor can't be inherited twice: CRIU closes it after the first time.
		fd, err := unix.FcntlInt(h.File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return errors.Join(fmt.Errorf("duplicate %s: %w", e.Path, err), p.closeLent())
		}
		if old := p.lent[key]; old != nil {
			_ = old.Close() // another descriptor of the same file takes its place
		}
		p.lent[key] = os.NewFile(uintptr(fd), key)
	}
	return nil
}

func (p *Plan) closeLent() error {
	var errs []error
	for _, f := range p.lent {
		errs = append(errs, f.Close())
	}
	p.lent = nil
	return errors.Join(errs...)
}
