package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/report"
	"github.com/snapctl/snapctl/testenv/cmd/bench/internal/rig"
	"github.com/snapctl/snapctl/testenv/host"
)

// steadyPostgres measures a database that was woken beside one that was never
// frozen.
func steadyPostgres(ctx context.Context, b *rig.Bench) error {
	if !b.Wants("steady/pgbench/tpcb") && !b.Wants("steady/pgbench/select") {
		return nil
	}
	bin, err := postgresPrograms()
	if err != nil {
		fmt.Fprintln(b.Report.Out, "steady/pgbench: left out:", err)
		return nil
	}
	criu, drop, err := criuForOtherUsers(ctx)
	if err != nil {
		fmt.Fprintln(b.Report.Out, "steady/pgbench: left out:", err)
		return nil
	}
	defer drop()
	scale, rounds, seconds := 10, 15, 1
	if b.Small {
		scale, rounds, seconds = 1, 1, 1
	}
	const fresh = "10.77.0.8"
	return rig.WithHost(ctx, host.Config{Name: "bench", CRIU: criu}, func(w *rig.World) error {
		p := &postgres{w: w, bin: bin}
		g, gctx := errgroup.WithContext(ctx)
		for app, at := range map[string]string{"woken": rig.Endpoint, "fresh": fresh} {
			g.Go(func() error {
				if err := p.start(gctx, app, at); err != nil {
					return err
				}
				_, err := p.bench(gctx, at, "-i", "-q", "-s", strconv.Itoa(scale))
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if err := w.Cycle(ctx, "woken"); err != nil {
			return err
		}
		for _, m := range []struct {
			name string
			args []string
		}{{"tpcb", nil}, {"select", []string{"-S"}}} {
			if !b.Wants("steady/pgbench/" + m.name) {
				continue
			}
			side := func(at string) func() (float64, error) {
				args := append([]string{"-n", "-c", "4", "-T", strconv.Itoa(seconds)}, m.args...)
				return func() (float64, error) { return p.tps(ctx, at, args...) }
			}
			if _, _, err := rig.Rates(1, side(rig.Endpoint), side(fresh)); err != nil { // to get warm
				return err
			}
			ours, other, err := rig.Rates(rounds, side(rig.Endpoint), side(fresh))
			if err != nil {
				return err
			}
			b.Report.Add(report.Row{
				Name: "steady/pgbench/" + m.name, Unit: "transactions/s", Ours: ours, Other: other,
				OtherName: "never frozen", Goal: -0.95,
			})
		}
		return errors.Join(w.Remove(ctx, "woken"), w.Remove(ctx, "fresh"))
	})
}

// postgresPrograms finds where Debian puts the programs of its newest version.
func postgresPrograms() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if err != nil || len(found) == 0 {
		return "", errors.New("no PostgreSQL in /usr/lib/postgresql")
	}
	return filepath.Dir(found[len(found)-1]), nil
}

// criuForOtherUsers is the CRIU to save processes of other users with, as postgres
// refuses to be root's, and a function that removes it again. See
// testenv/e2e/testdata/limits.c for what root may lack.
func criuForOtherUsers(ctx context.Context) (path string, drop func(), err error) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the interface has 64 bits as two of 32
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return "", nil, err
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 {
		return testenv.CRIUPath(), func() {}, nil
	}
	criu, err := exec.LookPath(testenv.CRIUPath())
	if err != nil {
		return "", nil, err
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", nil, fmt.Errorf("find module: %w", err)
	}
	dir, err := os.MkdirTemp(testenv.BaseDir(), "criu-")
	if err != nil {
		return "", nil, err
	}
	drop = func() { _ = os.RemoveAll(dir) } // the next sweep tells, if it stays
	defer func() {
		if err != nil {
			drop()
		}
	}()
	source := filepath.Join(filepath.Dir(strings.TrimSpace(string(out))), "testenv/e2e/testdata/limits.c")
	library, script := filepath.Join(dir, "limits.so"), filepath.Join(dir, "criu")
	if out, err := exec.CommandContext(ctx, "cc", "-shared", "-fPIC", "-O2", "-o", library, source).CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("root lacks CAP_SYS_RESOURCE, and cc: %w: %s", err, out)
	}
	return script, drop, os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nLD_PRELOAD=%s exec %s \"$@\"\n", library, criu), 0o755)
}

// postgres runs databases as apps.
type postgres struct {
	w   *rig.World
	bin string
}

// start runs one and waits until it serves.
func (p *postgres) start(ctx context.Context, app, at string) error {
	_, err := p.w.API.Run(ctx, &api.RunRequest{
		Name: app, Endpoint: at, User: "postgres", Env: []string{"PATH=" + p.bin + ":/usr/bin:/bin", "LC_ALL=C"},
		Wake: &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_NEVER},
		Args: []string{"sh", "-ec", `
			initdb -D /tmp/data --auth=trust --no-sync >/dev/null
			echo 'host all all all trust' >> /tmp/data/pg_hba.conf
			exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off -c max_wal_size=4GB -c autovacuum=off -c wal_level=minimal -c max_wal_senders=0`},
	})
	if err != nil {
		return err
	}
	return rig.Until(ctx, time.Minute, func() error {
		r, err := host.Run(p.w.Command(ctx, filepath.Join(p.bin, "pg_isready"), "-h", at))
		if err == nil && r.Code != 0 {
			err = fmt.Errorf("wait for postgres: %s", r.Stdout)
		}
		return err
	})
}

// bench runs pgbench and returns what it printed.
func (p *postgres) bench(ctx context.Context, at string, args ...string) (string, error) {
	args = append([]string{"-h", at, "-U", "postgres"}, append(args, "postgres")...)
	r, err := host.Run(p.w.Command(ctx, filepath.Join(p.bin, "pgbench"), args...))
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("pgbench: exit status %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout, err
}

// tps returns the transactions a second.
func (p *postgres) tps(ctx context.Context, at string, args ...string) (float64, error) {
	out, err := p.bench(ctx, at, args...)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out) { // tps = 1234.5 (without initial connection time)
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "tps" {
			return strconv.ParseFloat(fields[2], 64)
		}
	}
	return 0, fmt.Errorf("pgbench: no rate in %q", out)
}
