package wireguard_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/channel/wireguard"
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

// everywhere runs a test with WireGuard in user space, and in the kernel where that has it.
func everywhere(t *testing.T, test func(t *testing.T, local wireguard.Local)) {
	t.Helper()
	exe, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	t.Run("user space", func(t *testing.T) { test(t, wireguard.Local{Exe: exe, UserSpace: true}) })
	if err := wireguard.Kernel(); err != nil {
		t.Logf("the kernel's WireGuard is not tested: %v", err)
		return
	}
	t.Run("kernel", func(t *testing.T) { test(t, wireguard.Local{}) })
}
