package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ends are our descriptors of a terminal.
type ends struct {
	master *os.File // the app's own open file: its flags are not touched
	slave  *os.File // opened by us; nil if nobody has it open
}

// open opens both ends of the terminal that process pid has; slave tells whether the
// slave is wanted.
func (p *Pair) open(pid int, slave bool) (*ends, error) {
	master, err := duplicate(pid, p.FD)
	if err != nil {
		return nil, err
	}
	e := &ends{master: master}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil || number != p.Number {
		return nil, errors.Join(fmt.Errorf("descriptor %d of process %d is not the master of /dev/pts/%d", p.FD, pid, p.Number), err, master.Close())
	}
	if !slave {
		return e, nil
	}
	// Not by its path: it is in the app's mount namespace (drivers/tty/pty.c,
	// ptm_open_peer).
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, errors.Join(fmt.Errorf("open /dev/pts/%d: %w", p.Number, errno), master.Close())
	}
	e.slave = os.NewFile(fd, "slave")
	return e, nil
}

func (e *ends) close() {
	if e.slave != nil {
		_ = e.slave.Close() // the app has its own
	}
	_ = e.master.Close() // likewise
}

// change sets what is to hold while data is moved. Packets come first: in packet mode
// a change of settings would be told to the master's reader.
func (p *Pair) change(e *ends, how func(*unix.Termios)) error {
	master := int(e.master.Fd())
	if p.Packet {
		if err := unix.IoctlSetPointerInt(master, unix.TIOCPKT, 0); err != nil {
			return fmt.Errorf("end the packet mode of /dev/pts/%d: %w", p.Number, err)
		}
	}
	s := p.Settings
	how(&s)
	if err := unix.IoctlSetTermios(master, unix.TCSETS2, &s); err != nil {
		return fmt.Errorf("change the settings of /dev/pts/%d: %w", p.Number, err)
	}
	return nil
}

// reset ends what change began.
func (p *Pair) reset(e *ends) error {
	master := int(e.master.Fd())
	s := p.Settings
	err := unix.IoctlSetTermios(master, unix.TCSETS2, &s)
	if p.Packet {
		err = errors.Join(err, unix.IoctlSetPointerInt(master, unix.TIOCPKT, 1))
	}
	if err != nil {
		return fmt.Errorf("put back the settings of /dev/pts/%d: %w", p.Number, err)
	}
	return nil
}

// unlock lets the slave be opened, by us now and by CRIU when it restores it.
func (p *Pair) unlock(pid int) error {
	if !p.Locked {
		return nil
	}
	e, err := p.open(pid, false)
	if err != nil {
		return err
	}
	defer e.close()
	return e.lock(0)
}

func (e *ends) lock(locked int) error {
	if err := unix.IoctlSetPointerInt(int(e.master.Fd()), unix.TIOCSPTLCK, locked); err != nil {
		return fmt.Errorf("lock terminal: %w", err)
	}
	return nil
}

// drain takes out what waits in the terminal.
func (p *Pair) drain(pid int) error {
	if err := p.unlock(pid); err != nil {
		return err
	}
	e, err := p.open(pid, p.Opened)
	if err != nil {
		return err
	}
	defer e.close()
	if e.slave != nil {
		exclusive, err := unix.IoctlGetInt(int(e.slave.Fd()), unix.TIOCGEXCL)
		if err != nil {
			return fmt.Errorf("ask whether /dev/pts/%d is exclusive: %w", p.Number, err)
		}
		p.Exclusive = exclusive != 0
	}
	// A line that is not complete can only be read in raw mode. The change is of no
	// consequence where nothing waits (drivers/tty/n_tty.c, n_tty_set_termios).
	if err := p.change(e, func(t *unix.Termios) {
		t.Lflag &^= unix.ICANON
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	}); err != nil {
		return err
	}
	if e.slave != nil {
		p.Input, err = readAll(int(e.slave.Fd()))
	}
	if err == nil {
		p.Output, err = readAll(int(e.master.Fd()))
	}
	if err != nil {
		err = fmt.Errorf("read what waits in /dev/pts/%d: %w", p.Number, err)
	}
	return errors.Join(err, p.reset(e))
}

// readAll reads what there is, whether the descriptor would block or not: the other
// readers are frozen.
func readAll(fd int) ([]byte, error) {
	var all []byte
	buf := make([]byte, 4096)
	for {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 || ready[0].Revents&unix.POLLIN == 0 {
			return all, err
		}
		n, err = unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EIO), err == nil && n == 0:
			return all, nil // EIO: nobody has the slave open, and all was read
		case err != nil:
			return all, err
		}
		all = append(all, buf[:n]...)
	}
}

// putBack puts back what drain took, and what the terminal was like.
func (p *Pair) putBack(pid int) error {
	e, err := p.open(pid, p.Opened || len(p.Output) > 0)
	if err != nil {
		return err
	}
	defer e.close()
	err = p.writeOutput(e)
	if len(p.Input) > 0 && e.slave != nil {
		err = errors.Join(err, p.writeInput(e))
	}
	err = errors.Join(err, p.reset(e))
	if p.MasterExclusive {
		err = errors.Join(err, unix.IoctlSetInt(int(e.master.Fd()), unix.TIOCEXCL, 0))
	}
	if p.Exclusive && e.slave != nil {
		err = errors.Join(err, unix.IoctlSetInt(int(e.slave.Fd()), unix.TIOCEXCL, 0))
	}
	if p.Locked {
		err = errors.Join(err, e.lock(1))
	}
	if err != nil {
		return fmt.Errorf("put back what waited in /dev/pts/%d: %w", p.Number, err)
	}
	return nil
}

func (p *Pair) writeOutput(e *ends) error {
	if len(p.Output) == 0 {
		return nil
	}
	if err := p.change(e, func(t *unix.Termios) { t.Oflag &^= unix.OPOST }); err != nil {
		return err
	}
	slave := int(e.slave.Fd())
	left, err := writeSome(slave, p.Output)
	if err != nil || len(left) == 0 {
		return err
	}
	// The user has stopped the output with Ctrl-S (drivers/tty/pty.c, pty_write). The
	// same key does it again.
	const start, stop = 'Q' - '@', 'S' - '@'
	err = p.change(e, func(t *unix.Termios) {
		t.Oflag &^= unix.OPOST
		t.Iflag |= unix.IXON
		t.Cc[unix.VSTART], t.Cc[unix.VSTOP] = start, stop
	})
	if err != nil || !typed(e.slave, start) {
		return errors.Join(err, fmt.Errorf("%d bytes of output do not fit: it is stopped", len(left)))
	}
	left, err = writeSome(slave, left)
	typed(e.slave, stop)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%d bytes of output do not fit", len(left))
	}
	return err
}

// writeInput types what was typed, without any key having an effect, but for those
// that end a line.
func (p *Pair) writeInput(e *ends) error {
	input := p.Input
	end := byte(0) // what stands for the end of input
	if p.Settings.Lflag&unix.ICANON != 0 {
		// The kernel keeps an end of input (Ctrl-D) as a NUL (drivers/tty/n_tty.c,
		// n_tty_receive_char_canon).
		if end = absent(input); end != 0 {
			input = bytes.ReplaceAll(input, []byte{0}, []byte{end})
		}
	}
	err := p.change(e, func(t *unix.Termios) {
		t.Iflag &= unix.IUTF8 | unix.IXON // without IXON, output that is stopped would go on
		t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ISIG | unix.IEXTEN
		for _, key := range []int{unix.VERASE, unix.VKILL, unix.VWERASE, unix.VREPRINT, unix.VLNEXT, unix.VSTART, unix.VSTOP} {
			t.Cc[key] = 0 // no key (_POSIX_VDISABLE)
		}
		t.Cc[unix.VEOF] = end
	})
	if err != nil {
		return err
	}
	for n := range input {
		if n < maxLine && typed(e.slave, input[n]) {
			continue
		}
		// Linux 6.2 to 6.6 without CONFIG_LEGACY_TIOCSTI; or the kernel's buffer is full.
		left, err := writeSome(int(e.master.Fd()), input[n:])
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d bytes of input do not fit", len(left))
		}
		return errors.Join(err, settle(int(e.slave.Fd())))
	}
	return nil
}

// typed types one byte at the slave. The kernel works on it at once; on what is written
// to the master it works later, with the settings of then (drivers/tty/tty_io.c, tiocsti;
// tty_buffer.c, flush_to_ldisc).
func typed(slave *os.File, b byte) bool {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, slave.Fd(), unix.TIOCSTI, uintptr(unsafe.Pointer(&b)))
	return errno == 0
}

// maxLine is how much a terminal keeps for its reader (N_TTY_BUF_SIZE of
// drivers/tty/n_tty.c), but for a byte.
const maxLine = 4095

// settle has the kernel work on what was written: poll does, if nothing can be read yet
// (drivers/tty/n_tty.c, n_tty_poll).
func settle(slave int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(slave), Events: unix.POLLIN}}, 0)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// absent is a byte that is not in b, if there is one; 0 if NUL is not there either, or
// all others are.
func absent(b []byte) byte {
	if !bytes.Contains(b, []byte{0}) {
		return 0
	}
	for c := byte(1); c != 0; c++ {
		if c != '\n' && !bytes.Contains(b, []byte{c}) {
			return c
		}
	}
	return 0
}

// patience bounds the wait for the kernel's own work on a terminal's buffers.
const patience = time.Second

// writeSome writes what fits, and returns the rest.
func writeSome(fd int, b []byte) (left []byte, err error) {
	deadline := time.Now().Add(patience)
	for len(b) > 0 {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(ready, int(max(0, min(100*time.Millisecond, time.Until(deadline))/time.Millisecond)))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return b, err
		}
		if n == 0 || ready[0].Revents&unix.POLLOUT == 0 {
			return b, nil
		}
		// A blocking master is the app's own: no more than surely fits.
		n, err = unix.Write(fd, b[:min(len(b), 1024)])
		if errors.Is(err, unix.EAGAIN) || err == nil && n == 0 {
			return b, nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return b, err
		}
		b = b[max(n, 0):]
	}
	return nil, nil
}
