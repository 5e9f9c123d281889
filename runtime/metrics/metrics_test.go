package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/event"
)

// busy are metrics of which each has a value.
func busy() *Metrics {
	m := New("1.2.3", func() State {
		return State{
			Apps: map[string]int{"held": 2, "running": 1}, HeldSockets: 7,
			Memory: Shared{UsedBytes: 300, StoredBytes: 100}, Files: Shared{UsedBytes: 30, StoredBytes: 10},
			Pools: map[string]Pool{"web": {Size: 5, Ready: 4}},
		}
	})
	b := event.NewBus(m)
	op := b.Begin(event.Hibernate, event.About{App: "cache"})
	op.Froze(2 * time.Millisecond)
	op.End(nil)
	b.Begin(event.Hibernate, event.About{App: "cache"}).End(errors.New("no room"))
	b.Begin(event.HandOut, event.About{App: "web-1"}).End(nil)
	b.Begin(event.HandOut, event.About{App: "web-2"}).End(errors.New("no room"))
	b.Begin(event.Clone, event.About{App: "web-3"}).End(nil)
	b.Begin(event.Wake, event.About{App: "cache"})
	b.Emit(event.Woken, event.About{App: "cache", Reason: "data"})
	b.Emit(event.Exited, event.About{App: "cache"})
	b.Emit(event.Removed, event.About{App: "cache"})
	return m
}

// lines are what Prometheus reads.
func lines(t *testing.T, m *Metrics) []string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "sock")
	stop, err := m.Start(t.Context(), Address{"unix", path})
	qt.Assert(t, qt.IsNil(err))
	text := get(t, path)
	qt.Assert(t, qt.IsNil(stop()))
	return strings.Split(text, "\n")
}

func get(t *testing.T, path string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	resp, err := client.Get("http://snapctld" + Path)
	qt.Assert(t, qt.IsNil(err))
	defer resp.Body.Close()
	qt.Assert(t, qt.Equals(resp.StatusCode, http.StatusOK))
	b, err := io.ReadAll(resp.Body)
	qt.Assert(t, qt.IsNil(err))
	return string(b)
}

func TestValues(t *testing.T) {
	got := lines(t, busy())
	for _, want := range []string{
		`snapctl_build_info{version="1.2.3"} 1`,
		`snapctl_operations_total{operation="hibernate",outcome="ok"} 1`,
		`snapctl_operations_total{operation="hibernate",outcome="failed"} 1`,
		`snapctl_operations_total{operation="snapshot",outcome="ok"} 0`, // from the beginning
		`snapctl_operation_duration_seconds_count{operation="hibernate"} 1`,
		`snapctl_freeze_duration_seconds_bucket{operation="hibernate",le="0.0025"} 1`,
		`snapctl_freeze_duration_seconds_bucket{operation="hibernate",le="0.001"} 0`,
		`snapctl_operations_in_progress{operation="wake"} 1`,
		`snapctl_operations_in_progress{operation="hibernate"} 0`,
		`snapctl_wakes_total{reason="data"} 1`,
		`snapctl_clones_total{source="pool"} 1`,
		`snapctl_clones_total{source="made"} 1`,
		`snapctl_app_exits_total 1`,
		`snapctl_app_removals_total 1`,
		`snapctl_apps{status="held"} 2`,
		`snapctl_held_sockets 7`,
		`snapctl_memory_used_bytes 300`,
		`snapctl_memory_stored_bytes 100`,
		`snapctl_files_used_bytes 30`,
		`snapctl_files_stored_bytes 10`,
		`snapctl_pool_size{template="web"} 5`,
		`snapctl_pool_ready{template="web"} 4`,
	} {
		qt.Check(t, qt.IsTrue(slices.Contains(got, want)), qt.Commentf("%s", want))
	}
}

// METRICS.md lists exactly what there is: names, types and labels.
func TestDocument(t *testing.T) {
	families, err := busy().registry.Gather()
	qt.Assert(t, qt.IsNil(err))
	var got []string
	for _, f := range families {
		labels := []string{}
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		got = append(got, fmt.Sprintf("`%s` | %s | %s", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", ")))
	}
	text, err := os.ReadFile("../../METRICS.md")
	qt.Assert(t, qt.IsNil(err))
	var want []string
	for _, row := range regexp.MustCompile("(?m)^\\| (`snapctl_[a-z_]+` \\| [a-z]+ \\| [^|]*)\\|").FindAllSubmatch(text, -1) {
		want = append(want, string(bytes.TrimSpace(row[1])))
	}
	slices.Sort(want)
	for i := range got {
		got[i] = strings.TrimSpace(got[i])
	}
	slices.Sort(got)
	qt.Check(t, qt.DeepEquals(got, want))
	for _, k := range event.Kinds() {
		qt.Check(t, qt.IsTrue(bytes.Contains(text, []byte("\n| `"+string(k)+"` |"))), qt.Commentf("operation %s", k))
	}
}

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"unix:/run/m.sock": "{unix /run/m.sock}", "127.0.0.1:9100": "{tcp 127.0.0.1:9100}", "[::1]:9100": "{tcp [::1]:9100}",
		"": "", "unix:": "", "unix:m.sock": "", ":9100": "", "9100": "", "localhost": "", "127.0.0.1:": "",
	} {
		a, err := ParseAddress(text)
		if want == "" {
			qt.Check(t, qt.IsNotNil(err), qt.Commentf("%s", text))
			continue
		}
		qt.Check(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(fmt.Sprint(a), want))
	}
}

// Only its own user may open the socket, whatever the umask; it goes with the daemon.
func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	stop, err := busy().Start(t.Context(), Address{"unix", path})
	qt.Assert(t, qt.IsNil(err))
	info, err := os.Lstat(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(info.Mode(), os.ModeSocket|0o600))

	// Nobody takes it from a daemon that is alive.
	_, err = busy().Start(t.Context(), Address{"unix", path})
	qt.Check(t, qt.ErrorMatches(err, "serve metrics: somebody listens at .*sock already"))

	qt.Assert(t, qt.IsNil(stop()))
	_, err = os.Lstat(path)
	qt.Check(t, qt.ErrorIs(err, os.ErrNotExist))
}

// The socket of a daemon that was killed is replaced, and no other file.
func TestLeftSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	qt.Assert(t, qt.IsNil(err))
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	qt.Assert(t, qt.IsNil(l.Close()))

	stop, err := busy().Start(t.Context(), Address{"unix", path})
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.StringContains(get(t, path), "snapctl_build_info"))
	qt.Assert(t, qt.IsNil(stop()))

	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte("mine"), 0o600)))
	_, err = busy().Start(t.Context(), Address{"unix", path})
	qt.Check(t, qt.ErrorMatches(err, "serve metrics: .*sock is there, and is no socket"))
	b, err := os.ReadFile(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(string(b), "mine"))
}

func TestTCP(t *testing.T) {
	a, err := ParseAddress("127.0.0.1:0")
	qt.Assert(t, qt.IsNil(err))
	stop, err := busy().Start(t.Context(), a)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsNil(stop()))
}
