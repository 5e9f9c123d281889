// Peer is the program that tests run inside an app. It is the responder of
// package testenv/peer, for connections from outside, to the outside, or both.
//
//	peer [--listen ADDRESS] [--connect ADDRESS [--connections N] [--flows N]]
//	     [--max-chunk BYTES] [--max-pause DURATION] [--control ADDRESS]
//
// It serves TCP and UDP at --listen, and opens N connections and flows of
// datagrams to --connect. It says "listening ADDRESS" when it listens, and ends
// at SIGTERM, or, if it does not listen, when the driver has ended all. At --control
// it can be told to drive others, and to pause: package testenv/peer/remote.
//
//	peer --drive ADDRESS --time DURATION [--connections N] [--flows N] ...
//
// is the other side, for a look by hand: it connects, and prints what happened
// as JSON. It fails if there was a fault.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/peer/remote"
)

// stopTime bounds the orderly end of a --drive.
const stopTime = 30 * time.Second

type config struct {
	listen, connect, drive string
	control                string
	duration               time.Duration
	target                 peer.Target
}

func main() {
	var cfg config
	flags := flag.NewFlagSet("peer", flag.ExitOnError)
	flags.StringVar(&cfg.listen, "listen", "", "serve TCP and UDP at this `address`")
	flags.StringVar(&cfg.connect, "connect", "", "connect to the driver at this `address`")
	flags.StringVar(&cfg.drive, "drive", "", "be the driver, and connect to this `address`")
	flags.StringVar(&cfg.control, "control", "", "be told what to do at this `address`")
	flags.DurationVar(&cfg.duration, "time", 10*time.Second, "how long to drive")
	flags.IntVar(&cfg.target.Connections, "connections", 1, "TCP connections to open")
	flags.IntVar(&cfg.target.Flows, "flows", 1, "flows of datagrams to open")
	flags.IntVar(&cfg.target.Pattern.MaxChunk, "max-chunk", 0, "largest write in `bytes`")
	flags.DurationVar(&cfg.target.Pattern.MaxPause, "max-pause", 0, "longest pause after a write; negative for none")
	_ = flags.Parse(os.Args[1:]) // exits on error

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, cfg); err != nil {
		fmt.Fprintln(os.Stderr, "peer: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, cfg config) error {
	if cfg.drive != "" {
		return drive(ctx, cfg)
	}
	if cfg.listen == "" && cfg.connect == "" && cfg.control == "" {
		return errors.New("want --listen, --connect, --control or --drive")
	}
	var wg sync.WaitGroup
	errs := make(chan error, 3)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var valve peer.Valve
	if cfg.listen != "" {
		l, datagrams, err := listen(ctx, cfg.listen)
		if err != nil {
			return err
		}
		service := peer.Service{TCP: l, UDP: datagrams, Valve: &valve, Log: log}
		wg.Go(func() { errs <- service.Serve(ctx) })
		if _, err := fmt.Println("listening", l.Addr()); err != nil {
			return err
		}
	}
	if cfg.control != "" {
		l, err := listenTCP(ctx, cfg.control)
		if err != nil {
			return err
		}
		server := remote.NewServer(&net.Dialer{}, &valve, log)
		wg.Go(func() { errs <- server.Serve(ctx, l) })
	}
	if cfg.connect != "" {
		cfg.target.TCP, cfg.target.UDP, cfg.target.Valve = cfg.connect, cfg.connect, &valve
		wg.Go(func() { errs <- peer.Connect(ctx, &net.Dialer{}, cfg.target) })
	}
	wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// listen opens both sockets at the same port.
func listen(ctx context.Context, address string) (net.Listener, net.PacketConn, error) {
	l, err := listenTCP(ctx, address)
	if err != nil {
		return nil, nil, err
	}
	var lc net.ListenConfig
	datagrams, err := lc.ListenPacket(ctx, "udp", l.Addr().String())
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return l, datagrams, nil
}

func listenTCP(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	// CRIU can't save MPTCP sockets, which Go makes by default.
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", address)
}

func drive(ctx context.Context, cfg config) error {
	cfg.target.TCP, cfg.target.UDP = cfg.drive, cfg.drive
	load, err := peer.Dial(ctx, &net.Dialer{}, cfg.target)
	if err != nil {
		return err
	}
	timer := time.NewTimer(cfg.duration)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	stats, err := load.Stop(ctx)
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	return errors.Join(err, enc.Encode(stats))
}
