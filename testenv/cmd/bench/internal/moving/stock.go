package moving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
	"github.com/snapctl/snapctl/testenv/host"
)

// stock has CRIU save the same program with its connections, copies the images to the other host over the cable, and
// has CRIU restore them. It returns how long the three take, one after the other. The connections are those of a
// host with itself, and the processes are restored where they were: what moving an address takes besides is not
// counted.
func stock(ctx context.Context, alpha, beta *rig.World, cable *host.Link, connections int, args []string) (took time.Duration, err error) {
	path, err := alpha.Install(ctx, "subject")
	if err != nil {
		return 0, err
	}
	s, err := alpha.StockProgram(ctx, append([]string{path}, args...)...)
	if err != nil {
		return 0, err
	}
	defer func() {
		s.End()
		// What CRIU has restored is nobody's child: the next one has the same port.
		err = errors.Join(err, rig.Until(ctx, 10*time.Second, func() error {
			if unix.Kill(s.PID, 0) == nil {
				return fmt.Errorf("process %d is still there", s.PID)
			}
			return nil
		}))
	}()
	if err := alpha.Answers(ctx, rig.Loopback); err != nil {
		return 0, err
	}
	clients, err := alpha.Crowd(ctx, rig.Loopback, connections)
	if err != nil {
		return 0, err
	}
	defer rig.CloseAll(clients)
	dumped, err := s.CRIU(ctx, "dump", "-t", strconv.Itoa(s.PID), "--tcp-established", "--network-lock", "nftables")
	if err != nil {
		return 0, err
	}
	copied, err := copyOver(ctx, alpha, beta, cable, s.Dir)
	if err != nil {
		return 0, fmt.Errorf("copy images: %w", err)
	}
	restored, err := s.Restore(ctx, "--tcp-established", "--network-lock", "nftables")
	if err != nil {
		return 0, err
	}
	for _, c := range clients {
		if _, err := rig.Ping(c); err != nil {
			return 0, fmt.Errorf("a client of what CRIU restored: %w", err)
		}
	}
	return dumped + copied + restored, nil
}

// copyOver copies the files of a directory to another host by one connection, as fast as that goes.
func copyOver(ctx context.Context, from, to *rig.World, cable *host.Link, dir string) (took time.Duration, err error) {
	target, err := os.MkdirTemp(to.Dir(), "copied-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(target)) }()
	var l net.Listener
	if err := to.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(cable.B.String(), "0"))
		return err
	}); err != nil {
		return 0, err
	}
	defer l.Close()
	var out net.Conn
	if err := from.Do(func() (err error) {
		out, err = (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		return err
	}); err != nil {
		return 0, err
	}
	in, err := l.Accept()
	if err != nil {
		return 0, errors.Join(err, out.Close())
	}
	defer in.Close()
	began := time.Now()
	var both errgroup.Group
	both.Go(func() error { return errors.Join(sendFiles(out, dir), out.Close()) })
	both.Go(func() error {
		f, err := os.OpenFile(filepath.Join(target, "images"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, in)
		return errors.Join(err, f.Close())
	})
	err = both.Wait()
	return time.Since(began), err
}

func sendFiles(to io.Writer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		_, err = io.Copy(to, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
