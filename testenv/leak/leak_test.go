package leak_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/leak"
)

// TestFinds makes leaks of each kind and expects to be told, then takes them
// away and expects to be told nothing.
func TestFinds(t *testing.T) {
	tests := map[string]struct {
		leak, mend string // shell, inside the host; $D is its directory
		want       []string
	}{
		"process": {
			leak: `setsid sleep 1003 >/dev/null 2>&1 & echo $! >$D/pid`, mend: `kill $(cat $D/pid)`,
			want: []string{`alpha: process sleep`, `alpha sleep: open file /dev/null.*`},
		},
		"cgroup": {
			leak: `mkdir -p $V2/app/sub`, mend: `rmdir $V2/app/sub $V2/app`,
			want: []string{`alpha: cgroup .*/app`, `alpha: cgroup .*/app/sub`},
		},
		"cgroup v1": {
			leak: `for d in $V1; do mkdir $d/app1; done`, mend: `for d in $V1; do rmdir $d/app1; done`,
			want: wantV1(t),
		},
		"overlay": {
			leak: `mkdir -p $D/u $D/w /run/m; mount -t overlay none -o lowerdir=/usr,upperdir=$D/u,workdir=$D/w /run/m`,
			mend: `umount /run/m`,
			want: []string{`alpha: overlay mount /run/m`},
		},
		"bound net namespace": {
			leak: `touch /run/bound; unshare --net=/run/bound ip link add dummy7 type veth peer name dummy8`,
			mend: `umount /run/bound`,
			want: []string{
				`alpha net namespace \d+: veth device dummy7`, `alpha net namespace \d+: veth device dummy8`,
				`alpha net namespace \d+: .* device lo`, `alpha net namespace \d+: rule .*`,
				`alpha: net namespace \d+`, `alpha: nsfs mount /run/bound`,
			},
		},
		"device, address, route": {
			leak: `ip link add veth7 type veth peer name veth8; ip addr add 198.51.100.1/24 dev veth7; ip link set veth7 up; ip link set veth8 up; ip route add 203.0.113.0/24 via 198.51.100.2`,
			mend: `ip link del veth7`,
			want: []string{
				`alpha: veth device veth7`, `alpha: address 198.51.100.1/24 on veth7`,
				`alpha: route 203.0.113.0/24 dev veth7 table 254 type 1`,
			},
		},
		"rule":      {leak: `ip rule add pref 77 lookup 77`, mend: `ip rule del pref 77`, want: []string{`alpha: rule .*77.*`}},
		"nft table": {leak: `nft add table inet criu7`, mend: `nft delete table inet criu7`, want: []string{`alpha: nft table 1 criu7`}},
		"run file":  {leak: `mkdir -p /run/snapctl/apps/x`, mend: `rm -r /run/snapctl/apps/x`, want: []string{`alpha: run file apps/x`}},
		"state file": {
			leak: `mkdir -p $D/state/apps/x`, mend: `rm -r $D/state/apps/x`,
			want: []string{`alpha: state file apps/x`},
		},
	}
	testenv.Need(t, testenv.Root, testenv.Program("ip"), testenv.Program("nft"), testenv.Program("unshare"))
	h := host.New(t, host.Config{Name: "alpha"})
	const prelude = `set -e; V1=$(awk '$0 ~ / - cgroup / {print $5}' /proc/self/mountinfo); V2=$(awk '$0 ~ / - cgroup2 / {print $5}' /proc/self/mountinfo); mkdir -p /run/snapctl/apps $D/state/apps; `
	sh := func(t *testing.T, script string) {
		t.Helper()
		cmd := h.Command(t.Context(), "sh", "-c", prelude+script)
		cmd.Env = append(cmd.Env, "D="+h.Dir())
		r, err := host.Run(cmd)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
	}
	sh(t, "")
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			before, err := leak.Take(h)
			qt.Assert(t, qt.IsNil(err))
			sh(t, tt.leak)
			for _, want := range tt.want {
				find(t, want, before, h)
			}
			sh(t, tt.mend)
			qt.Check(t, qt.HasLen(wait(t, before, h), 0))
		})
	}
}

// wantV1 has a leak for each v1 hierarchy of the machine; there may be none.
func wantV1(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	qt.Assert(t, qt.IsNil(err))
	var want []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, " - cgroup ") {
			want = append(want, "alpha: cgroup "+strings.Fields(line)[4]+"/app1")
		}
	}
	return want
}

// find waits until a leak is told: a new process has its name only after a while.
func find(t *testing.T, want string, before leak.State, hosts ...*host.Host) {
	t.Helper()
	re := regexp.MustCompile("^" + want + "$")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		after, err := leak.Take(hosts...)
		qt.Assert(t, qt.IsNil(err))
		more := after.Since(before)
		if slices.ContainsFunc(more, re.MatchString) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Errorf("want %s in %q", want, more)
			return
		}
	}
}

func wait(t *testing.T, before leak.State, hosts ...*host.Host) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	more, err := leak.Wait(ctx, before, hosts...)
	qt.Assert(t, qt.IsNil(err))
	return more
}

func TestFindsInSelf(t *testing.T) {
	before, err := leak.Take()
	qt.Assert(t, qt.IsNil(err))
	path := filepath.Join(t.TempDir(), "file")
	f, err := os.Create(path)
	qt.Assert(t, qt.IsNil(err))
	child := exec.CommandContext(t.Context(), "sleep", "1004")
	qt.Assert(t, qt.IsNil(child.Start()))

	after, err := leak.Take()
	qt.Assert(t, qt.IsNil(err))
	more := after.Since(before)
	qt.Check(t, qt.SliceContains(more, "test process: open file "+path))
	qt.Check(t, qt.SliceContains(more, "test process: child process sleep"))

	qt.Assert(t, qt.IsNil(f.Close()))
	qt.Assert(t, qt.IsNil(child.Process.Kill()))
	_, err = child.Process.Wait()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(wait(t, before), 0))
}

// recorder is a test that fails without harm.
type recorder struct {
	testenv.TB
	cleanup []func()
	errors  int
}

func (r *recorder) Cleanup(fn func())     { r.cleanup = append(r.cleanup, fn) }
func (r *recorder) Errorf(string, ...any) { r.errors++ }

func TestCheckFails(t *testing.T) {
	for name, leave := range map[string]bool{"clean": false, "leak": true} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			leak.Check(r)
			if leave {
				f, err := os.Open(os.DevNull)
				qt.Assert(t, qt.IsNil(err))
				defer f.Close()
			}
			for _, fn := range r.cleanup {
				fn()
			}
			qt.Check(t, qt.Equals(r.errors > 0, leave))
		})
	}
}
