package metrics

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Path is where the metrics are, below the address.
const Path = "/metrics"

const (
	headerTime   = 10 * time.Second // for a reader to send its request
	shutdownTime = time.Second      // for answers that are under way when the daemon ends
)

// Address is where metrics are served. There is no authentication: whoever reaches it
// reads them.
type Address struct {
	network string // "unix" or "tcp"
	at      string
}

// ParseAddress reads "unix:PATH", or "HOST:PORT" for TCP.
func ParseAddress(text string) (a Address, err error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if !strings.HasPrefix(path, "/") {
			return a, fmt.Errorf("%q: want unix: and an absolute path", text)
		}
		return Address{"unix", path}, nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil || host == "" || port == "" {
		return a, fmt.Errorf("%q is neither unix:PATH nor ADDRESS:PORT", text)
	}
	return Address{"tcp", text}, nil
}

// Start serves the metrics until stop is called, which ends answers that take long. Only
// its own user may open a unix socket. A socket that nobody listens on any more is
// replaced; stop removes it.
func (m *Metrics) Start(ctx context.Context, a Address) (stop func() error, err error) {
	l, err := listen(ctx, a)
	if err != nil {
		return nil, fmt.Errorf("serve metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+Path, m.Handler())
	s := &http.Server{Handler: mux, ReadHeaderTimeout: headerTime}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	return func() error {
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		err := s.Shutdown(patience)
		if errors.Is(err, context.DeadlineExceeded) {
			err = s.Close()
		}
		if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
			err = errors.Join(err, serr)
		}
		if err != nil {
			return fmt.Errorf("serve metrics: %w", err)
		}
		return nil
	}, nil
}

func listen(ctx context.Context, a Address) (net.Listener, error) {
	var c net.ListenConfig
	if a.network == "unix" {
		if err := removeLeft(ctx, a.at); err != nil {
			return nil, err
		}
		c.Control = private
	}
	return c.Listen(ctx, a.network, a.at)
}

// private makes the file of a unix socket, which bind(2) is about to create, one that only
// its user may open: the file gets the mode of the socket, less the umask
// (net/unix/af_unix.c, unix_bind_bsd).
func private(_, _ string, raw syscall.RawConn) error {
	var err error
	cerr := raw.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) })
	return errors.Join(cerr, err)
}

// removeLeft removes the socket of a daemon that was killed. Nothing else is removed.
func removeLeft(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there, and is no socket", path)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("somebody listens at %s already", path), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
