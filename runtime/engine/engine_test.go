package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/wake"
)

// named is an app of which there is a record and nothing else.
func named(t *testing.T, name string, state app.State) *App {
	t.Helper()
	return &App{App: app.New(filepath.Join(t.TempDir(), name), t.TempDir(), app.Record{Identity: app.Identity{Name: name}, State: state})}
}

func TestRecordOfASnapshot(t *testing.T) {
	m := &snapshot.Manifest{
		App: "cache", Spec: &specs.Spec{Hostname: "cache"},
		Address: snapshot.Address{Network: "blue", Endpoint: "10.77.0.7", Endpoint6: "fd00::7"},
		Content: snapshot.Content{Layers: []layer.Ref{{Own: true}}, HostFiles: []hostfile.File{{Own: true}}},
		Policy:  &snapshot.Policy{Wake: "never", HibernateAfter: time.Minute, RestoreMemory: "copied"},
	}
	rec, err := RecordOf(m)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(rec.Network, "blue"))
	four, six := rec.Inside()
	qt.Check(t, qt.Equals(four, netip.MustParseAddr("10.77.0.7")))
	qt.Check(t, qt.Equals(six, netip.MustParseAddr("fd00::7")))
	qt.Check(t, qt.Equals(rec.Wake.Mode, wake.Never))
	qt.Check(t, qt.Equals(rec.RestoreMemory, restore.Copy))
	// What the snapshot owns the app only uses.
	qt.Check(t, qt.IsFalse(rec.Layers[0].Own || rec.HostFiles[0].Own))
	qt.Check(t, qt.IsTrue(m.Layers[0].Own && m.HostFiles[0].Own))

	m.Endpoint = "nowhere"
	_, err = RecordOf(m)
	qt.Check(t, qt.ErrorMatches(err, "endpoint: .*"))
}

func TestErrorsOfClaims(t *testing.T) {
	port := vem.Port{Proto: "tcp", HostPort: 80}
	for _, test := range []struct {
		err  error
		text string
		is   error
	}{
		{&vem.PortError{App: "web", Port: port}, "publish host port 80/tcp: already exists: app web has it", errdefs.ErrAlreadyExists},
		{&vem.TakenError{App: "web"}, ".*", errdefs.ErrAlreadyExists},
		{&vem.AddressError{Network: "blue", Err: errors.New("not in it")}, "endpoint in network blue .*: not in it", errdefs.ErrInvalidArgument},
		{os.ErrPermission, "permission denied", os.ErrPermission},
	} {
		err := claimError(fmt.Errorf("claim: %w", test.err))
		qt.Check(t, qt.ErrorIs(err, test.is))
		if !errors.Is(test.is, os.ErrPermission) {
			qt.Check(t, qt.ErrorMatches(err, test.text))
			qt.Check(t, qt.Equals(errdefs.Resolve(err), test.is)) // by what clients are told the kind
		}
	}
}

func TestRefusalsAreKnownByTheirKind(t *testing.T) {
	cause := errors.New("it has a device open")
	for _, err := range []error{Refusef("app is held"), refusal{cause}, fmt.Errorf("snapshot: %w", refusal{cause})} {
		qt.Check(t, qt.IsTrue(errdefs.IsFailedPrecondition(err)))
		qt.Check(t, qt.Equals(errdefs.Resolve(err), error(errdefs.ErrFailedPrecondition)))
	}
	qt.Check(t, qt.ErrorIs(refusal{cause}, cause))
}

// TestObstaclesOfASnapshot proves that what is in the way ends a snapshot with --stop, and is a
// note of another one.
func TestObstaclesOfASnapshot(t *testing.T) {
	gone := &restore.FileError{Path: "/srv/data", Reason: "it is gone", Remedy: "put it back"}
	a := named(t, "cache", app.State{})
	qt.Check(t, qt.ErrorIs((&SnapshotRequest{Stop: true}).atOnce(a, nil, gone), gone))
	qt.Check(t, qt.HasLen(a.Remarked(), 0))
	qt.Check(t, qt.IsNil((&SnapshotRequest{}).atOnce(a, nil, gone)))
	qt.Check(t, qt.DeepEquals(a.Remarked(), []app.Note{{Text: "no app could be made of the snapshot now: it is gone", Remedy: "put it back"}}))
	qt.Check(t, qt.IsNil((&SnapshotRequest{Stop: true}).atOnce(a, nil)))
}

func TestFlatten(t *testing.T) {
	one, two, three := errors.New("one"), errors.New("two"), errors.New("three")
	told := fmt.Errorf("while looking: %w, %w", one, two) // says more than its parts
	for _, test := range []struct {
		err  error
		want []error
	}{
		{nil, nil},
		{one, []error{one}},
		{errors.Join(one, errors.Join(two, three)), []error{one, two, three}},
		{errors.Join(told, three), []error{told, three}},
	} {
		got := flatten(test.err)
		qt.Assert(t, qt.HasLen(got, len(test.want)))
		for i := range got {
			qt.Check(t, qt.Equals(got[i], test.want[i]))
		}
	}
}

func TestNamesOfOpenFiles(t *testing.T) {
	got := openNames([]image.SavedFile{{Name: "/srv/data"}, {Name: "/srv/gone", Removed: true}, {Name: "/dev/pts/3", External: true}, {Name: "pipe:[7]"}})
	qt.Check(t, qt.DeepEquals(got, []string{"/srv/data"}))
	f, err := os.Create(filepath.Join(t.TempDir(), "instance.json"))
	qt.Assert(t, qt.IsNil(err))
	defer f.Close()
	qt.Check(t, qt.DeepEquals(openAt(os.Getpid(), "instance.json"), []string{f.Name()}))
	qt.Check(t, qt.HasLen(openAt(os.Getpid(), "another.json"), 0))
}

func TestNameOfAnApp(t *testing.T) {
	eng := &Engine{}
	qt.Check(t, qt.Equals(eng.ChooseName("redis_server.sh"), "redis-server-sh"))
	qt.Check(t, qt.Equals(eng.ChooseName("___"), "app"))
	qt.Check(t, qt.Equals(len(eng.ChooseName(strings.Repeat("x", 99))), 40))
	free, err := eng.Apps.Reserve("redis", "redis-2")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(eng.ChooseName("redis"), "redis-3"))
	free()
	qt.Check(t, qt.Equals(eng.ChooseName("redis"), "redis"))
}

func TestSessionsAreListed(t *testing.T) {
	a := named(t, "dev", app.State{Status: app.Running})
	qt.Check(t, qt.Equals(a.attended(), ""))
	end := a.sessions.begin(7, []string{"tmux", "attach"})
	other := a.sessions.begin(8, []string{"top"})
	qt.Check(t, qt.IsTrue(strings.Contains(a.attended(), `"tmux attach"`)), qt.Commentf("%s", a.attended()))
	end()
	qt.Check(t, qt.HasLen(a.sessions.now(), 1))
	other()
	qt.Check(t, qt.Equals(a.attended(), ""))
}

func TestTailOfACommand(t *testing.T) {
	var out tail
	for i := range 1000 {
		_, err := out.Write([]byte(strconv.Itoa(i) + "\n"))
		qt.Assert(t, qt.IsNil(err))
	}
	qt.Check(t, qt.Equals(len(out), 1<<10))
	qt.Check(t, qt.IsTrue(strings.HasSuffix(string(out), "998\n999\n")))
}

// TestTimersOfAnIdleApp proves that an app whose only timer can wake it is not hibernated without
// one, nor just before it.
func TestTimersOfAnIdleApp(t *testing.T) {
	s := &sleeper{rec: app.Record{Policy: app.Policy{Wake: wake.Policy{Timers: true}}}}
	late := &alarm.Alarm{Timer: "timerfd 3 of process 1", At: time.Now().Add(time.Hour)}
	soon := &alarm.Alarm{Timer: "timerfd 3 of process 1", At: time.Now().Add(alarm.Lead)}
	var useless *uselessError
	qt.Check(t, qt.IsNil(s.heed(true)(late)))
	qt.Check(t, qt.IsNil(s.heed(false)(nil)))
	qt.Check(t, qt.ErrorAs(s.heed(true)(nil), &useless))
	qt.Check(t, qt.ErrorAs(s.heed(false)(soon), &useless))
}

func TestTasksEndWithTheirContext(t *testing.T) {
	tasks := NewTasks(t.Context())
	began, ended := make(chan struct{}), make(chan struct{})
	tasks.Run(func(ctx context.Context) {
		close(began)
		<-ctx.Done()
		close(ended)
	})
	<-began
	tasks.Stop()
	select {
	case <-ended:
	default:
		t.Error("Stop did not wait")
	}
}

func TestRepeatedRandomNumbers(t *testing.T) {
	qt.Check(t, qt.IsNil(Repeats(nil, Cloned)))
	n := Repeats([]string{"OpenSSL in process 1 (redis-server)"}, Cloned)
	qt.Assert(t, qt.IsNotNil(n))
	qt.Check(t, qt.IsTrue(strings.Contains(n.Text, "in every clone") && strings.Contains(n.Text, "redis-server")))
	qt.Check(t, qt.IsTrue(strings.Contains(n.Remedy, "template's rules")))
	qt.Check(t, qt.IsFalse(strings.Contains(Repeats([]string{"x"}, Restored).Remedy, "template's rules")))
	qt.Check(t, qt.Equals(sameAgain().MachineID, template.MachineIDKeep))
}
