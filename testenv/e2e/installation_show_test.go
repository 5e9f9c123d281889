package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-quicktest/qt"
)

// read runs a command whose JSON it reads.
func (hs *hosts) read(w *World, into any, args ...string) {
	hs.t.Helper()
	r := hs.ok(w, append(args, "--output", "json")...)
	qt.Assert(hs.t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), into)), qt.Commentf("%v: %s", args, r.Stdout))
}

// shown looks at what users are shown of apps that talk to one another across hosts, and takes the
// channels between them down.
func (hs *hosts) shown() {
	t, alpha := hs.t, hs.worlds[0]
	t.Helper()
	type channel struct {
		Host, State, Module, Interface, Local string
		Since                                 time.Time
		Received                              struct{ Bytes int }
		Endpoints                             []string
	}
	var channels struct{ Channels []channel }
	hs.read(alpha, &channels, "vem", "channels")
	qt.Assert(t, qt.HasLen(channels.Channels, 2))
	for i, c := range channels.Channels {
		qt.Check(t, qt.Equals(c.Host, hs.worlds[i+1].Name()))
		qt.Check(t, qt.Equals(c.State+" "+c.Module+" "+c.Interface+" "+c.Local, "up direct eth0 "+hs.eth0[0].Addr4().String()))
		qt.Check(t, qt.IsTrue(c.Received.Bytes > 0 && len(c.Endpoints) > 0 && !c.Since.IsZero()), qt.Commentf("%+v", c))
	}

	var resolved struct {
		Endpoints []struct{ Host, Endpoint, State, Source string }
	}
	hs.read(alpha, &resolved, "vem", "resolve", "peer-beta")
	qt.Assert(t, qt.HasLen(resolved.Endpoints, 1))
	beta := resolved.Endpoints[0]
	qt.Check(t, qt.Equals(beta.Host+" "+beta.State+" "+beta.Source, "beta running cache"))
	qt.Check(t, qt.Equals(alpha.CLI("vem", "resolve", "10.77.255.1").Code, 4))

	type connection struct {
		Status, Host, Module, Interface string
		RemoteApp                       string `json:"remote_app"`
		RemoteHost                      string `json:"remote_host"`
		UnderlayRemote                  string `json:"underlay_remote"`
		ReceivedBytes                   int    `json:"received_bytes"`
	}
	var table struct{ Rows []connection }
	hs.read(alpha, &table, "vem", "table", "peer-alpha")
	i := slices.IndexFunc(table.Rows, func(r connection) bool {
		return r.RemoteHost == "beta" && r.RemoteApp == "peer-beta" && r.ReceivedBytes > 0
	})
	qt.Assert(t, qt.IsTrue(i >= 0), qt.Commentf("%+v", table))
	row := table.Rows[i]
	qt.Check(t, qt.Equals(fmt.Sprint(row.Status, row.Host, row.RemoteApp, row.Module, row.Interface, row.UnderlayRemote), fmt.Sprint("up", "alpha", "peer-beta", "direct", "eth0", hs.eth0[1].Addr4())))

	var listed struct {
		Hosts []struct {
			Name    string
			Self    bool
			Control struct{ State, Address string }
		}
	}
	hs.read(alpha, &listed, "host", "ls")
	for _, h := range listed.Hosts {
		qt.Check(t, qt.IsTrue(h.Self || h.Control.State == "up"), qt.Commentf("%+v", h))
	}
	hs.diagnosed(alpha)

	hs.ok(alpha, "vem", "channels", "down", "--all")
	var trace struct {
		OK    bool
		Steps []struct{ Name, Status, Found string }
	}
	hs.read(alpha, &trace, "vem", "trace", beta.Endpoint, "--from", "peer-alpha")
	qt.Check(t, qt.IsTrue(trace.OK))
	qt.Check(t, qt.HasLen(trace.Steps, 11), qt.Commentf("%+v", trace.Steps))
	for _, s := range trace.Steps {
		qt.Check(t, qt.Equals(s.Status, "ok"), qt.Commentf("%+v", s))
	}
	qt.Check(t, qt.Equals(alpha.CLI("vem", "trace", "10.77.255.1").Code, 1))
}

// diagnosed looks at the checks of doctor that are about several hosts.
func (hs *hosts) diagnosed(w *World) {
	hs.t.Helper()
	var d struct {
		Checks []struct{ Name, Status, Found string }
	}
	r := w.CLI("doctor", "--output", "json") // other checks may fail: they are about this machine
	qt.Assert(hs.t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &d)))
	seen := make(map[string]bool)
	for _, c := range d.Checks {
		seen[c.Name] = true
		if slices.Contains(hostChecks, c.Name) {
			qt.Check(hs.t, qt.Equals(c.Status, "ok"), qt.Commentf("%+v", c))
		}
	}
	for _, name := range hostChecks {
		qt.Check(hs.t, qt.IsTrue(seen[name]), qt.Commentf("no check %s", name))
	}
}

var hostChecks = []string{
	"installation", "control-port", "hosts", "directory", "directory-ports", "underlay", "clocks", "versions", "certificate", "bpf", "wireguard", "reached-apps",
}
