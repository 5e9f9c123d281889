// Package daemoncli is the command line of snapctld. Besides the daemon itself
// the same program is, by hidden commands, the holder, WireGuard in user space,
// the first process of each app's sandbox, and the tracer that opens descriptors
// in the name of processes.
package daemoncli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/cmd/internal/version"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/daemon"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/runtime/metrics"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot/inject"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/channel/wireguard/userspace"
	"github.com/snapctl/snapctl/vem/holder"
	"github.com/snapctl/snapctl/vem/probe"
)

// Main runs snapctld and returns its exit code. The caller is on the main
// thread: the sandbox's first process depends on it.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case sandbox.InitCommand:
			return onMainThread(sandbox.Init, stderr)
		case inject.Command:
			return onMainThread(func() error { return inject.Serve(os.Stdin, os.Stdout) }, stderr)
		}
	}
	cmd := command(stderr) //nolint:contextcheck // cobra hands ctx to the command
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "snapctld: error: %v\n", err)
		if errors.Is(err, errUsage) {
			return 2
		}
		return 1
	}
	return 0
}

func onMainThread(fn func() error, stderr io.Writer) int {
	runtime.LockOSThread() //nolint:forbidigo // the process ends with it
	if err := fn(); err != nil {
		fmt.Fprintf(stderr, "snapctld: error: %v\n", err)
		return 1
	}
	return 0
}

var errUsage = errors.New("usage")

// Bounds of --probe-interval: more often than that a busy host answers late, and one that asks more
// seldom has no use of probes.
const (
	minProbeInterval = 100 * time.Millisecond
	maxProbeInterval = time.Minute
)

func command(stderr io.Writer) *cobra.Command {
	var (
		opt            daemon.Options
		prefix4, level string
		prefix6        string
		metricsAt      string
	)
	cmd := &cobra.Command{
		Use:   "snapctld",
		Short: "Own the apps of this host and serve snapctl",
		Long: `snapctld owns the apps of this host: it runs, freezes, holds, restores and
removes them for snapctl, which talks to it through RUN_DIR/snapctl.sock.

Ending it ends no app: held sockets stay with the holder process, and the next
snapctld takes everything up again.`,
		Example:       "  snapctld\n  snapctld --state-dir /srv/snapctl --run-dir /run/snapctl2\n  snapctld --metrics unix:/run/snapctl/metrics.sock",
		Version:       version.Version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if opt.Prefix4, err = netip.ParsePrefix(prefix4); err != nil {
				return fmt.Errorf("%w: --network4: %w", errUsage, err)
			}
			if opt.Prefix6, err = netip.ParsePrefix(prefix6); err != nil {
				return fmt.Errorf("%w: --network6: %w", errUsage, err)
			}
			if metricsAt != "" {
				at, err := metrics.ParseAddress(metricsAt)
				if err != nil {
					return fmt.Errorf("%w: --metrics: %w", errUsage, err)
				}
				opt.Metrics = &at
			}
			var min slog.Level
			if err := min.UnmarshalText([]byte(level)); err != nil {
				return fmt.Errorf("%w: --log-level: %w", errUsage, err)
			}
			if opt.ProbeInterval < minProbeInterval || opt.ProbeInterval > maxProbeInterval {
				return fmt.Errorf("%w: --probe-interval: %s is not between %s and %s", errUsage, opt.ProbeInterval, minProbeInterval, maxProbeInterval)
			}
			for name, n := range map[string]int{"hide-connections": opt.Shortcuts.HideFrom, "copy-ahead": opt.Shortcuts.CopyAhead} {
				if n < 0 {
					return fmt.Errorf("%w: --%s: %d is below 0, which turns it off", errUsage, name, n)
				}
			}
			exe, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			opt.Version, opt.Shortcuts.Tracer = version.Version, exe
			opt.Log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: min}))
			return serve(cmd.Context(), opt)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opt.StateDir, "state-dir", sandbox.DefaultStateDir, "where apps and snapshots are kept")
	f.StringVar(&opt.RunDir, "run-dir", daemon.DefaultRunDir, "where sockets and mounts are; a tmpfs")
	f.StringVar(&opt.CRIU, "criu", os.Getenv("SNAPCTL_CRIU"), "the CRIU program (default: the newest of PATH and the private copy of scripts/deps)")
	f.IntVar(&opt.CRIULog, "criu-log-level", 2, "how much CRIU logs, 0 to 4; 4 slows it down")
	f.IntVar(&opt.Shortcuts.HideFrom, "hide-connections", checkpoint.DefaultHideFrom, "from `N` TCP connections on, those of an app are hidden from CRIU, which then saves the app faster; 0: never")
	f.IntVar(&opt.Shortcuts.CopyAhead, "copy-ahead", checkpoint.DefaultCopyAhead, "from `MIB` of private memory of a process on, that is copied while the app runs, and only what is written meanwhile while it stands still; 0: never")
	f.StringVar(&prefix4, "network4", "10.77.0.0/16", "IPv4 addresses of the default network")
	f.StringVar(&prefix6, "network6", "fd77:736e:6170::/64", "IPv6 addresses of the default network")
	f.StringVar(&metricsAt, "metrics", "", "serve Prometheus metrics at `unix:PATH`, a socket of root's, or at ADDRESS:PORT, which has no authentication: whoever reaches it reads them (default: nowhere)")
	f.DurationVar(&opt.ProbeInterval, "probe-interval", probe.DefaultInterval, "how often each way to another host that there is a channel to is probed: a way that fails is left within three of these")
	f.StringVar(&opt.BootFile, "boot-file", vem.DefaultBootFile, "`FILE` with an id that is another one whenever all apps of this host have ended at once, as in a reboot; in a container, one that is new for each start of the container")
	f.BoolVar(&opt.WholeMemory, "whole-memory", false, "when an app is saved, do not compare its memory with the app's last snapshot, but store again what that has: less is read, and snapshots take more room")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	cmd.AddCommand(holderCommand(stderr), wireguardCommand(stderr))
	cmd.CompletionOptions.DisableDefaultCmd = true
	return cmd
}

// holderCommand is the process that keeps the sockets of held apps.
func holderCommand(stderr io.Writer) *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use: "holder", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return holder.Run(cmd.Context(), socket, slog.New(slog.NewTextHandler(stderr, nil)))
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "", "where it listens")
	return cmd
}

// wireguardCommand is the process that does WireGuard for one network where the kernel can't.
func wireguardCommand(stderr io.Writer) *cobra.Command {
	var mtu int
	cmd := &cobra.Command{
		Use: "wireguard", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return userspace.Run(cmd.Context(), mtu, slog.New(slog.NewTextHandler(stderr, nil)))
		},
	}
	cmd.Flags().IntVar(&mtu, "mtu", 0, "of the network's device")
	return cmd
}

func serve(ctx context.Context, opt daemon.Options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("snapctld must run as root: try sudo snapctld")
	}
	if err := fault.Check(append(journal.Points(daemon.Operations()), daemon.HostPoints()...)); err != nil {
		return err
	}
	// A group of files as large as the host allows: one for each held socket.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read file limit: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise file limit: %w", err)
	}
	// What snapctld was started with open is not for apps: a command in one could
	// use it, and what the command leaves running could not be saved. Linux 5.11.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep open files: %w", err)
	}
	// What systemd's MemoryKSM= sets, every restored process would inherit, and
	// mapped memory must not be merged (see package image). EINVAL before Linux 6.4.
	_ = unix.Prctl(unix.PR_SET_MEMORY_MERGE, 0, 0, 0, 0)
	// A restore makes some MiB of garbage, and the heap is as small: by default it is
	// collected during every one, 2 ms of a processor that CRIU needs. This is 16 MiB
	// of heap at most, for as long as live objects are few.
	if _, ok := os.LookupEnv("GOGC"); !ok {
		debug.SetGCPercent(400)
	}
	d, err := daemon.Open(ctx, opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Serve(ctx, func() {
		opt.Log.InfoContext(ctx, "serving", slog.String("state_dir", opt.StateDir), slog.String("run_dir", opt.RunDir), slog.String("criu", opt.CRIU))
		notifyReady(ctx, opt.Log)
	})
}
