// Command demo shows snapctl's main job on a scratch host: a redis with
// hundreds of connected clients leaves the process list, stays reachable, and
// comes back, and not one client sees an error; then it is cloned. In the second part two
// scratch hosts share a virtual network, and the way between their apps goes down and comes up
// without any of them noticing.
//
// Nothing it does reaches the machine's network, and it leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
)

func main() {
	clients := flag.Int("clients", 300, "how many clients stay connected")
	rounds := flag.Int("rounds", 5, "how often redis is hibernated and woken")
	clones := flag.Int("clones", 20, "how many clones are made of it")
	part := flag.Int("part", 0, "show this part only: 1 is one host, 2 is two hosts; 0: both")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	var err error
	if os.Geteuid() != 0 {
		err = errors.New("namespaces and CRIU need root: try sudo make demo")
	}
	if err == nil && *part != 2 {
		err = run(ctx, os.Stdout, *clients, *rounds, *clones)
	}
	if err == nil && *part != 1 {
		err = severalHosts(ctx, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, clients, rounds, clones int) (err error) {
	h, err := host.Open(ctx, host.Config{Name: "demo"})
	if err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, h.Close(clean))
	}()
	s := &show{out: out, h: h}
	s.say("A scratch host: network, mounts and state of its own, no route out.")
	if err := h.StartDaemon(ctx, host.Daemon{}); err != nil {
		return err
	}
	if err := s.snapctl(ctx, "run", "--name", "cache", "--endpoint", endpoint, "--", "redis-server", "--save", "", "--protected-mode", "no"); err != nil {
		return err
	}
	crowd, err := connect(ctx, h, clients)
	if err != nil {
		return err
	}
	defer crowd.close()
	s.say("%d clients are connected to %s and stay so.", clients, endpoint)
	for round := 1; round <= rounds; round++ {
		if err := s.round(ctx, crowd, round); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	if err := s.cloning(ctx, crowd, clones); err != nil {
		return fmt.Errorf("cloning: %w", err)
	}
	if err := s.snapctl(ctx, "rm", "--force", "cache"); err != nil {
		return err
	}
	s.say("%d clients, %d rounds, %d commands answered, %d client errors, longest wait for an answer %d ms.",
		clients, rounds, crowd.answered, crowd.failed, crowd.longest.Milliseconds())
	if crowd.failed > 0 {
		return fmt.Errorf("%d client errors, the first: %w", crowd.failed, crowd.firstErr)
	}
	return nil
}

const endpoint = "10.77.0.7"

// show tells what happens and runs the commands that make it happen.
type show struct {
	out    io.Writer
	h      *host.Host
	prompt string // before the $; empty: there is one host
}

func (s *show) say(format string, args ...any) {
	fmt.Fprintf(s.out, "\n# "+format+"\n", args...)
}

// snapctl runs a command and shows it with its output.
func (s *show) snapctl(ctx context.Context, args ...string) error {
	quoted := make([]string, len(args))
	for i, a := range args {
		if quoted[i] = a; a == "" {
			quoted[i] = "''"
		}
	}
	fmt.Fprintln(s.out, s.prompt+"$ snapctl", strings.Join(quoted, " "))
	r, err := s.h.Snapctl(ctx, args...)
	if err != nil {
		return err
	}
	fmt.Fprint(s.out, r.Stdout, r.Stderr)
	if r.Code != 0 {
		return fmt.Errorf("snapctl %s: exit status %d", args[0], r.Code)
	}
	return nil
}

// round hibernates redis, lets new clients arrive while it has no process, and
// then has every client ask at once.
func (s *show) round(ctx context.Context, crowd *crowd, round int) error {
	s.say("Round %d of freezing", round)
	if round == 1 {
		if err := s.snapctl(ctx, "ps"); err != nil {
			return err
		}
		s.processes("redis-server")
	}
	if err := s.snapctl(ctx, "hibernate", "cache"); err != nil {
		return err
	}
	if n := s.processes("redis-server"); n > 0 {
		return fmt.Errorf("%d redis processes are left", n)
	}
	if round == 1 {
		if err := s.snapctl(ctx, "ps"); err != nil {
			return err
		}
	}
	if err := crowd.join(ctx, 10); err != nil {
		return err
	}
	fmt.Fprintln(s.out, "10 new clients connected while redis has no process; now all ask at once.")
	took := crowd.ask(ctx)
	fmt.Fprintf(s.out, "all %d answered, the slowest after %d ms; errors so far: %d\n", len(crowd.clients), took.Milliseconds(), crowd.failed)
	if round == 1 {
		return s.snapctl(ctx, "ps")
	}
	return nil
}

// processes shows the processes of that name on the host, as ps would.
func (s *show) processes(name string) int {
	pids, err := s.h.Pids()
	if err != nil {
		fmt.Fprintln(s.out, "ps:", err)
		return 0
	}
	n := 0
	for _, pid := range pids {
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(comm)) == name {
			n++
		}
	}
	fmt.Fprintf(s.out, "$ pgrep -c %s\n%d\n", name, n)
	return n
}
