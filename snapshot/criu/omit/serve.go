package omit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/pagescan"
)

// What the kernel asks of a file system that is one file (include/uapi/linux/fuse.h). All else
// is refused.
const (
	opForget      = 2
	opOpen        = 14
	opRead        = 15
	opRelease     = 18
	opInit        = 26
	opInterrupt   = 36
	opIoctl       = 39
	opBatchForget = 42
)

// inHeader is a struct fuse_in_header.
type inHeader struct {
	Len, Opcode    uint32
	Unique, NodeID uint64
	UID, GID, PID  uint32
	_              uint32
}

// outHeader is a struct fuse_out_header.
type outHeader struct {
	Len    uint32
	Error  int32
	Unique uint64
}

// initOut is a struct fuse_init_out: no features. The version is that of Linux 5.4.
type initOut struct {
	Major, Minor, MaxReadahead, Flags uint32
	MaxBackground, Congestion         uint16
	MaxWrite, TimeGran                uint32
	_                                 [36]byte
}

// openOut is a struct fuse_open_out.
type openOut struct {
	Handle   uint64
	Flags, _ uint32
}

// Flags of an open file (include/uapi/linux/fuse.h): all reads come to us, whatever the size of the file is;
// and we are not asked when it is closed (Linux 5.16), for which a process that ends would wait without
// end if it is the one that answers.
const (
	directIO = 1 << 0 // FOPEN_DIRECT_IO
	noFlush  = 1 << 5 // FOPEN_NOFLUSH
)

// readIn is a struct fuse_read_in.
type readIn struct {
	Handle, Offset uint64
	Size, _        uint32
	_              [16]byte
}

// ioctlIn is a struct fuse_ioctl_in; the argument's data follows.
type ioctlIn struct {
	Handle          uint64
	Flags, Cmd      uint32
	Arg             uint64
	InSize, OutSize uint32
}

// ioctlOut is a struct fuse_ioctl_out; the argument's data follows.
type ioctlOut struct {
	Result int32
	_      [12]byte
}

// bufferSize is the least that the kernel wants to write a request to (FUSE_MIN_READ_BUFFER).
const bufferSize = 8 << 10

// server answers the requests of one Omission.
type server struct {
	o       *Omission
	scanner scanner
	in      []byte
}

// serve answers until the Omission is closed.
func (o *Omission) serve() {
	defer close(o.ended)
	s := &server{o: o, in: make([]byte, bufferSize)}
	fds := []unix.PollFd{{Fd: int32(o.wake), Events: unix.POLLIN}} //nolint:gosec // a descriptor
	for _, f := range o.files {
		fds = append(fds, unix.PollFd{Fd: int32(f.dev), Events: unix.POLLIN}) //nolint:gosec // a descriptor
	}
	for fds[0].Revents == 0 {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			o.fail(fmt.Errorf("wait for CRIU: %w", err))
			return
		}
		for i := range o.files {
			p := &fds[i+1]
			if p.Revents == 0 {
				continue
			}
			n, err := unix.Read(o.files[i].dev, s.in)
			switch {
			case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // it was called off
			case errors.Is(err, unix.ENODEV):
				p.Fd = -1 // CRIU has ended, and with it the mount
			case err != nil:
				o.fail(err)
				p.Fd = -1
			default:
				if err := s.answer(o.files[i], s.in[:n]); err != nil {
					o.fail(err)
				}
			}
		}
	}
}

// fail keeps the first failure.
func (o *Omission) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil {
		o.err = fmt.Errorf("answer CRIU: %w", err)
	}
}

// answer answers a request. What fails is known before the answer is there.
func (s *server) answer(f *file, request []byte) error {
	var h inHeader
	size, err := binary.Decode(request, binary.NativeEndian, &h)
	if err != nil {
		return err
	}
	//exhaustive:ignore
	switch h.Opcode {
	case opForget, opBatchForget, opInterrupt:
		return nil // want no answer
	}
	out, err := s.do(f, &h, request[size:])
	o := outHeader{Unique: h.Unique}
	if err != nil {
		var errno unix.Errno
		if !errors.As(err, &errno) {
			errno = unix.EIO
		}
		if o.Error, out = -int32(errno), nil; h.Opcode == opIoctl && errno != unix.ENOTTY || h.Opcode == opRead {
			s.o.fail(fmt.Errorf("process %d: %w", f.pid, err))
		}
	}
	o.Len = uint32(binary.Size(o) + len(out)) //nolint:gosec // it is small
	reply, err := binary.Append(nil, binary.NativeEndian, o)
	if err == nil {
		_, err = unix.Write(f.dev, append(reply, out...))
	}
	if errors.Is(err, unix.ENOENT) { // it was called off
		return nil
	}
	return err
}

// do does what a request wants. It returns the answer behind the header.
func (s *server) do(f *file, h *inHeader, body []byte) ([]byte, error) {
	native := binary.NativeEndian
	//exhaustive:ignore
	switch h.Opcode {
	case opInit:
		return binary.Append(nil, native, initOut{Major: 7, Minor: 31, MaxWrite: 4096})
	case opOpen:
		return binary.Append(nil, native, openOut{Flags: directIO | noFlush})
	case opRelease:
		return nil, nil
	case opRead:
		var in readIn
		if _, err := binary.Decode(body, native, &in); err != nil {
			return nil, err
		}
		out := make([]byte, in.Size)
		n, err := unix.Pread(f.pagemap, out, int64(in.Offset)) //nolint:gosec // as the kernel has it
		return out[:max(n, 0)], err
	case opIoctl:
		var in ioctlIn
		size, err := binary.Decode(body, native, &in)
		if err != nil {
			return nil, err
		}
		arg := body[size:]
		if in.Cmd != pagescan.Request || len(arg) != pagescan.Size {
			return nil, unix.ENOTTY
		}
		n, err := s.scan(f, int(h.PID), arg)
		if err != nil {
			return nil, err
		}
		out, err := binary.Append(nil, native, ioctlOut{Result: int32(n)}) //nolint:gosec // it is small
		return append(out, arg...), err
	}
	return nil, unix.ENOSYS
}

// scan scans for CRIU, and for nobody else.
func (s *server) scan(f *file, asker int, arg []byte) (int, error) {
	mem, err := s.o.memory(asker)
	if err != nil {
		return 0, err
	}
	defer mem.Close() //nolint:errcheck // a write has failed before
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	return s.scanner.run(f.pagemap, f.set, mem, arg)
}

// memory opens the memory of the process that asks. It is CRIU, or one that is apart with it: CRIU may be
// the child of a script.
func (o *Omission) memory(asker int) (*os.File, error) {
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", asker), os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open memory of CRIU: %w", err)
	}
	if asker == o.criu {
		return mem, nil
	}
	// The number may be another process's by now. What is open stays the memory that it was.
	together, err := sameMounts(asker, o.criu)
	if err == nil && !together {
		err = fmt.Errorf("process %d asks, and not CRIU: %w", asker, unix.EPERM)
	}
	if err != nil {
		return nil, errors.Join(err, mem.Close())
	}
	return mem, nil
}
