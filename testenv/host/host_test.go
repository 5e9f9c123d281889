package host_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/leak"
)

func output(t *testing.T, h *host.Host, name string, args ...string) string {
	t.Helper()
	r, err := host.Run(h.Command(t.Context(), name, args...))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(r.Code, 0), qt.Commentf("%s", r.Stderr))
	return r.Stdout
}

func TestHostIsApart(t *testing.T) {
	h := host.New(t, host.Config{Name: "alpha"})

	qt.Check(t, qt.Equals(output(t, h, "uname", "-n"), "alpha\n"))
	qt.Check(t, qt.Equals(output(t, h, "ls", "-A", "/run"), ""))
	qt.Check(t, qt.Equals(output(t, h, "pwd"), wd(t)))
	devices := output(t, h, "cat", "/proc/net/dev")
	qt.Check(t, qt.StringContains(devices, "lo:"))
	qt.Check(t, qt.Equals(strings.Count(devices, ":"), 1))
	qt.Check(t, qt.StringContains(output(t, h, "cat", "/proc/self/cgroup"), "0::/init\n"))
	qt.Check(t, qt.Not(qt.StringContains(output(t, h, "cat", "/proc/self/cgroup"), "snapctl-host")))

	err := h.Do(func() error {
		_, err := net.DialTimeout("tcp", "192.0.2.1:9", time.Second)
		return err
	})
	qt.Check(t, qt.ErrorIs(err, error(unix.ENETUNREACH)))
}

func wd(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	qt.Assert(t, qt.IsNil(err))
	return dir + "\n"
}

func TestCommandExitStatus(t *testing.T) {
	h := host.New(t, host.Config{})
	r, err := host.Run(h.Command(t.Context(), "sh", "-c", "echo out; echo err >&2; exit 7"))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(r, host.Result{Stdout: "out\n", Stderr: "err\n", Code: 7}))
}

func TestCloseEndsEverything(t *testing.T) {
	leak.Check(t)
	h := host.New(t, host.Config{})
	// What an app does: leave the session, and all of the host's namespaces.
	script := `mkdir "$1/m"
mount -t tmpfs none "$1/m"
for d in $(awk '$0 ~ / - cgroup2? / {print $5}' /proc/self/mountinfo); do mkdir $d/app; done
v2=$(awk '$0 ~ / - cgroup2 / {print $5}' /proc/self/mountinfo)
mkfifo /run/started
setsid unshare -n -m -p -f -C sh -c 'echo >/run/started; exec sleep 1000' >/dev/null 2>&1 &
echo $! >$v2/app/cgroup.procs
read line </run/started
setsid sleep 1001 >/dev/null 2>&1 &
echo 1 >$v2/app/cgroup.freeze
`
	output(t, h, "sh", "-c", script, "sh", h.Dir())
	groups, err := h.Cgroups()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Not(qt.HasLen(groups, 0)))
	pids, err := h.Pids()
	qt.Assert(t, qt.IsNil(err))
	// keeper, unshare, 2 sleep
	qt.Check(t, qt.HasLen(pids, 4), qt.Commentf("%s", output(t, h, "ps", "-eo", "pid,ppid,stat,comm")))

	dir, name := h.Dir(), h.Dir()[strings.LastIndex(h.Dir(), "/")+1:]
	qt.Assert(t, qt.IsNil(h.Close(t.Context())))
	qt.Check(t, qt.IsNil(h.Close(t.Context())))

	_, err = os.Stat(dir)
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
	for _, pid := range pids {
		b, gone := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if gone == nil { // a zombie that waits for the machine's init, or another process
			qt.Check(t, qt.Satisfies(string(b), func(s string) bool { return strings.Contains(s, ") Z") || !strings.Contains(s, "(sleep)") }))
		}
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Not(qt.StringContains(string(b), name)))
}

func TestLink(t *testing.T) {
	a, b := host.New(t, host.Config{Name: "a"}), host.New(t, host.Config{Name: "b"})
	for name, prefix := range map[string]string{"v4": "198.51.100.0/24", "v6": "fd00:5::/64"} {
		t.Run(name, func(t *testing.T) {
			link, err := a.Link(t.Context(), b, netip.MustParsePrefix(prefix))
			qt.Assert(t, qt.IsNil(err))
			at := netip.AddrPortFrom(link.B, 7000).String()
			l, err := b.Listen(t.Context(), "tcp", at)
			qt.Assert(t, qt.IsNil(err))
			defer l.Close()
			greet := func(wait time.Duration) error {
				ctx, cancel := context.WithTimeout(t.Context(), wait)
				defer cancel()
				c, err := a.DialContext(ctx, "tcp", at)
				if err != nil {
					return err
				}
				defer c.Close()
				s, err := l.Accept()
				if err != nil {
					return err
				}
				_, err = io.WriteString(s, "hello")
				if err = errors.Join(err, s.Close()); err != nil {
					return err
				}
				got, err := io.ReadAll(c)
				if string(got) != "hello" {
					return errors.Join(err, errors.New("no greeting"))
				}
				return err
			}
			qt.Assert(t, qt.IsNil(greet(5*time.Second)))
			qt.Assert(t, qt.IsNil(link.Cut()))
			var timeout net.Error
			qt.Assert(t, qt.ErrorAs(greet(300*time.Millisecond), &timeout))
			qt.Check(t, qt.IsTrue(timeout.Timeout()))
			qt.Assert(t, qt.IsNil(link.Mend()))
			qt.Check(t, qt.IsNil(greet(5*time.Second)))
			qt.Check(t, qt.IsNil(link.Delete()))
		})
	}
}
