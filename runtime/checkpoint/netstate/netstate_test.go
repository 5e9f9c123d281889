package netstate

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem/copies"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netconf"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/sockopt"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

var (
	own     = netip.MustParseAddr("10.77.0.7")
	own6    = netip.MustParseAddr("fd77::7")
	given   = netip.MustParseAddr("10.98.0.1")
	foreign = netip.MustParseAddr("192.0.2.1")
)

// noting is an app at its two addresses, and what it notes.
func noting() (*App, *[]string) {
	var notes []string
	return &App{
		Standard: netconf.Standard{Addresses: []netip.Addr{own, own6}},
		Note:     func(text, _ string) { notes = append(notes, text) },
	}, &notes
}

// connection is one between two ports of the app.
func connection(from, to uint16, sent int) tcprepair.Connection {
	a, b := netip.AddrPortFrom(own, from), netip.AddrPortFrom(own, to)
	return tcprepair.Connection{Ends: []tcprepair.State{
		{Inode: uint64(from), Family: 2, Local: a, Remote: b, Sending: tcprepair.Sending{Sent: make([]byte, sent)}},
		{Inode: uint64(to), Family: 2, Local: b, Remote: a},
	}}
}

func TestSavedStateIsRead(t *testing.T) {
	dir := snapshot.Dir(t.TempDir())
	saved := &Saved{
		Options:  sockopt.Saved{Sockets: []sockopt.Socket{{Inode: 3, PID: 1, FD: 4, What: "tcp 0.0.0.0:80"}}},
		Settings: netconf.Settings{Sysctls: map[string]string{"ipv4/ip_forward": "1"}},
	}
	saved.Refused = []tcprepair.Refused{{Inode: 9, Reason: "it has urgent data"}}
	qt.Assert(t, qt.IsNil(saved.Write(dir)))

	options, err := ReadOptions(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(options, saved.Options))
	settings, err := ReadSettings(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(settings.Sysctls, saved.Settings.Sysctls))
	connections, err := ReadConnections(dir, &snapshot.Manifest{})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(connections.Refused, saved.Refused))
	_, err = ReadConnections(dir, &snapshot.Manifest{ProcessState: snapshot.ProcessState{Connections: 1}})
	qt.Assert(t, qt.ErrorIs(err, tree.ErrDamaged))
}

func TestNothingSavedIsNoFile(t *testing.T) {
	dir := snapshot.Dir(t.TempDir())
	qt.Assert(t, qt.IsNil((&Saved{}).Write(dir)))
	entries, err := os.ReadDir(string(dir))
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(entries, 0))
	options, err := ReadOptions(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(options.Sockets, 0))
	settings, err := ReadSettings(dir)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsTrue(settings.Empty()))
	connections, err := ReadConnections(dir, &snapshot.Manifest{})
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(connections.Connections, 0))
	_, err = ReadConnections(dir, &snapshot.Manifest{ProcessState: snapshot.ProcessState{Connections: 2}})
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
}

func TestDamagedFiles(t *testing.T) {
	dir := snapshot.Dir(t.TempDir())
	for _, path := range []string{dir.Connections(), dir.Sockets(), dir.Network()} {
		qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte("{"), 0o600)))
	}
	_, err := ReadConnections(dir, &snapshot.Manifest{})
	qt.Check(t, qt.ErrorIs(err, tree.ErrDamaged))
	_, err = ReadOptions(dir)
	qt.Check(t, qt.ErrorIs(err, tree.ErrDamaged))
	_, err = ReadSettings(dir)
	qt.Check(t, qt.ErrorIs(err, tree.ErrDamaged))
	qt.Check(t, qt.ErrorIs((&App{}).SetSettings(nil, dir), tree.ErrDamaged))
}

func TestWhereItCanNotBeWritten(t *testing.T) {
	dir := snapshot.Dir(filepath.Join(t.TempDir(), "missing"))
	options := &Saved{Options: sockopt.Saved{Sockets: []sockopt.Socket{{PID: 1}}}}
	qt.Check(t, qt.ErrorMatches(options.Write(dir), "write socket options: .*"))
	settings := &Saved{Settings: netconf.Settings{Sysctls: map[string]string{"ipv4/ip_forward": "1"}}}
	qt.Check(t, qt.ErrorMatches(settings.Write(dir), "write network settings: .*"))
	refused := &Saved{}
	refused.Refused = []tcprepair.Refused{{Inode: 1}}
	qt.Check(t, qt.ErrorMatches(refused.Write(dir), "write connections: .*"))
}

func TestOwnAddresses(t *testing.T) {
	a, _ := noting()
	is := a.ownAddress(given)
	for addr, want := range map[netip.Addr]bool{
		own: true, own6: true, given: true, foreign: false,
		netip.MustParseAddr("127.0.0.9"): true, netip.IPv6Loopback(): true,
	} {
		qt.Check(t, qt.Equals(is(addr), want), qt.Commentf("%s", addr))
	}
	qt.Check(t, qt.IsFalse(a.ownAddress()(given)))
}

// With ip_nonlocal_bind a socket of IPv4 can be bound to any address.
func TestBindable(t *testing.T) {
	a, _ := noting()
	foreign6 := netip.MustParseAddr("2001:db8::1")
	settings := &netconf.Settings{Addresses: []netip.Addr{given}}
	for addr, want := range map[netip.Addr]bool{own: true, given: true, foreign: false, foreign6: false} {
		qt.Check(t, qt.Equals(a.bindable(settings)(addr), want), qt.Commentf("%s", addr))
	}
	settings.Sysctls = map[string]string{"ipv4/ip_nonlocal_bind": "1"}
	for addr, want := range map[netip.Addr]bool{own6: true, given: true, foreign: true, foreign6: false} {
		qt.Check(t, qt.Equals(a.bindable(settings)(addr), want), qt.Commentf("%s", addr))
	}
}

// A connection that is over is not saved if another one has its addresses by now.
func TestConnectionThatIsOver(t *testing.T) {
	saved := &Saved{}
	qt.Assert(t, qt.Equals(saved.addSized(connection(1, 2, 0)), ""))
	over := connection(1, 2, 0)
	over.Ends = over.Ends[1:]
	other := connection(3, 4, 0)
	other.Ends = other.Ends[:1]
	saved.addFound(&copies.Found{Over: []tcprepair.Connection{over, other}, Refused: []tcprepair.Refused{{Inode: 8, Reason: "why"}}})
	qt.Assert(t, qt.HasLen(saved.Connections, 2))
	qt.Assert(t, qt.DeepEquals(saved.Refused, []tcprepair.Refused{
		{Inode: 8, Reason: "why"},
		{Inode: 2, Reason: "it is over, has data that was not read, and its addresses are those of another one by now"},
	}))
}

func TestTooMuchInConnections(t *testing.T) {
	saved := &Saved{}
	qt.Assert(t, qt.Equals(saved.addSized(connection(1, 2, tcprepair.MaxSaved-4<<10)), ""))
	qt.Assert(t, qt.Matches(saved.addSized(connection(3, 4, 8<<10)), "more than .* MiB wait in the app's connections"))
	qt.Assert(t, qt.HasLen(saved.Connections, 1))
}

// What a killed daemon has left is ended once, and a list that it had only half written is
// of nothing that had begun.
func TestEndRepair(t *testing.T) {
	a := &App{Repair: filepath.Join(t.TempDir(), "repair.json"), PIDs: func() ([]int, error) { return nil, nil }}
	qt.Assert(t, qt.IsNil(a.EndRepair(t.Context())))
	qt.Assert(t, qt.IsNil(os.WriteFile(a.Repair, []byte(`{"7":`), 0o600)))
	qt.Assert(t, qt.IsNotNil(a.EndRepair(t.Context())))
	qt.Assert(t, qt.IsNil(a.EndRepair(t.Context())))

	lost := errors.New("no cgroup")
	a.PIDs = func() ([]int, error) { return nil, lost }
	qt.Assert(t, qt.IsNil(os.WriteFile(a.Repair, []byte(`{"7":1}`), 0o600)))
	qt.Assert(t, qt.ErrorIs(a.EndRepair(t.Context()), lost))
	_, err := os.Lstat(a.Repair)
	qt.Assert(t, qt.IsNil(err), qt.Commentf("the list stays for the next attempt"))
}

func TestRepairOfNothing(t *testing.T) {
	a := &App{Repair: filepath.Join(t.TempDir(), "repair.json")}
	done, err := a.beginRepair(&copies.Inside{Connections: []copies.Connection{{Refused: "why"}}})
	qt.Assert(t, qt.IsNil(err))
	b, err := os.ReadFile(a.Repair)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b), "{}"))
	qt.Assert(t, qt.IsNil(done()))
	_, err = os.Lstat(a.Repair)
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
}

// Sockets that are held have their options.
func TestUnheldOptions(t *testing.T) {
	dir := snapshot.Dir(t.TempDir())
	saved := &Saved{Options: sockopt.Saved{Sockets: []sockopt.Socket{{Inode: 3, PID: 1}, {Inode: 4, PID: 1}}}}
	qt.Assert(t, qt.IsNil(saved.Write(dir)))
	for _, one := range []struct {
		held *hold.Set
		want int
	}{{nil, 2}, {hold.NewSet([]hold.Socket{{Inode: 4}}), 1}} {
		options, err := (&App{Held: one.held}).UnheldOptions(dir)
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.HasLen(options.Sockets, one.want))
		qt.Assert(t, qt.Equals(options.Sockets[0].Inode, 3))
	}
}

func TestNotesOfManySockets(t *testing.T) {
	a, notes := noting()
	var problems []copies.Problem
	for i := range 12 {
		problems = append(problems, copies.Problem{Socket: &sockopt.Socket{What: fmt.Sprintf("tcp 0.0.0.0:%d", 80+i)}, Err: errors.New("why")})
	}
	a.noteProblems(problems[:2])
	qt.Assert(t, qt.HasLen(*notes, 2))
	*notes = nil
	a.noteProblems(problems)
	qt.Assert(t, qt.HasLen(*notes, 11))
	qt.Assert(t, qt.Equals((*notes)[10], "2 more options of sockets are otherwise than they were: of tcp 0.0.0.0:90, tcp 0.0.0.0:91"))
	*notes = nil
	a.noteShared([]string{"0.0.0.0:80"})
	qt.Assert(t, qt.IsTrue(strings.HasPrefix((*notes)[0], "several sockets share 0.0.0.0:80")))
}

func TestNothingToMakeAgain(t *testing.T) {
	r, err := Reconnect(t.Context(), nil, nil)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.HasLen(r.Held(), 0))
	qt.Assert(t, qt.IsNil(r.Release()))
	qt.Assert(t, qt.IsNil(r.Close()))
	qt.Assert(t, qt.IsNil((&App{}).SetOptions(t.Context(), (*netns.NS)(nil), 1, sockopt.Saved{})))
	_, err = (&App{NetPath: filepath.Join(t.TempDir(), "net")}).Settings()
	qt.Assert(t, qt.ErrorIs(err, os.ErrNotExist))
}
