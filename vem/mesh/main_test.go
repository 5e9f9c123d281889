package mesh

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/snapctl/snapctl/vem/channel/wireguard/userspace"
)

// TestMain makes the test binary play the process that does WireGuard in user space.
func TestMain(m *testing.M) {
	if len(os.Args) != 4 || os.Args[1] != "wireguard" { // wireguard --mtu MTU
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM) //nolint:forbidigo // a main function
	defer stop()
	mtu, err := strconv.Atoi(os.Args[3])
	if err == nil {
		err = userspace.Run(ctx, mtu, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1) //nolint:gocritic // all is over
	}
}
