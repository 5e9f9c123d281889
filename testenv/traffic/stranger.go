package traffic

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
)

// Stranger runs the program peer on a host, outside of any app, at one of the host's
// addresses. The member has the host's name. It runs until stop is called, or until
// the host is closed, whatever happens to ctx.
func Stranger(ctx context.Context, h *host.Host, at netip.Addr) (m Member, stop func() error, err error) {
	path, err := h.Install(ctx, "peer")
	if err != nil {
		return Member{}, nil, err
	}
	cmd := h.Command(context.WithoutCancel(ctx), path, Args(at)...)
	if err := cmd.Start(); err != nil {
		return Member{}, nil, fmt.Errorf("start stranger on %s: %w", h.Name(), err)
	}
	stop = sync.OnceValue(func() error {
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			return fmt.Errorf("stop stranger on %s: %w", h.Name(), err)
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("stop stranger on %s: %w", h.Name(), err)
		}
		return nil
	})
	return Member{Name: h.Name(), Addr: at, Via: h}, stop, nil
}
