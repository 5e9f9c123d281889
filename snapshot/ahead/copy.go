package ahead

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/memmap"
)

// chunk is how much is read at a time.
const chunk = 256 * image.PageSize

// file is one that pages are appended to.
type file struct {
	*os.File
	pages uint64
}

func create(path string) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &file{File: f}, nil
}

// append writes pages of a process, which are at an address there.
func (f *file) append(start uint64, content []byte) (memmap.Place, error) {
	if _, err := f.WriteAt(content, int64(f.pages*image.PageSize)); err != nil {
		return memmap.Place{}, err
	}
	p := memmap.Place{Start: start, Pages: uint64(len(content)) / image.PageSize, Offset: f.pages, File: memmap.Kept{File: f.File}}
	f.pages += p.Pages
	return p, nil
}

// processMemory is the memory of a process that may run.
type processMemory struct{ *os.File }

func openMemory(pid int) (processMemory, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	return processMemory{f}, err
}

// each reads runs of pages in chunks. What can't be read is left out: the process has taken it away, or
// has ended.
func (m processMemory) each(ctx context.Context, runs []image.Extent, do func(start uint64, content []byte) error) error {
	buf := make([]byte, chunk)
	for _, r := range runs {
		for at := r.Start; at < r.End(); at += chunk {
			if err := ctx.Err(); err != nil {
				return err
			}
			content := buf[:min(chunk, r.End()-at)]
			n, err := m.ReadAt(content, int64(at))
			if err != nil && !gone(err) {
				return fmt.Errorf("read memory at %#x: %w", at, err)
			}
			if n = n / image.PageSize * image.PageSize; n == 0 {
				continue
			}
			if err := do(at, content[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// anonymous is how many pages of anonymous memory a process has; 0 if it has ended.
func anonymous(pid int) (pages uint64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		if kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64); err == nil && (name == "RssAnon" || name == "VmSwap") {
			pages += kib << 10 / image.PageSize
		}
	}
	return pages
}

// gone tells whether memory could not be read since it is not there any more.
func gone(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.EFAULT) || errors.Is(err, unix.ESRCH) || errors.Is(err, io.EOF)
}

// copyRuns copies runs of pages of a process to a file, and notes where they are.
func copyRuns(ctx context.Context, pid int, runs []image.Extent, to *file, list *[]memmap.Place) error {
	if len(runs) == 0 {
		return nil
	}
	from, err := openMemory(pid)
	if err != nil {
		return nil // it has ended
	}
	defer from.Close() //nolint:errcheck // only read from
	return from.each(ctx, runs, func(start uint64, content []byte) error {
		p, err := to.append(start, content)
		if err == nil {
			*list = join(*list, p)
		}
		return err
	})
}
