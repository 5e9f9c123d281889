package overview

import (
	"errors"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// well is a host with nothing to complain about.
func well() *Facts {
	return &Facts{
		Now: noon, Host: "a", Installation: "7a", Version: "1.2.3", NeedsMTU: 1440, MaxSkew: time.Hour,
		Ports: []Port{{At: "192.0.2.7:7077"}}, Devices: []Device{{"eth0", "192.0.2.7", 1500}},
		Hosts: []Neighbour{
			{Name: "b", Alive: true, Version: "1.2.3", HostHealth: HostHealth{Control: Control{Connected: true, Skew: time.Millisecond, RoundTrip: time.Millisecond}}},
		},
		Directory:   DirectoryFacts{Ports: []Port{{At: "192.0.2.7:7078"}}, Took: time.Millisecond},
		Certificate: noon.AddDate(0, 0, 30), RenewAt: noon.AddDate(0, 0, 20),
	}
}

func TestCheckup(t *testing.T) {
	for _, c := range Checkup(well()) {
		qt.Check(t, qt.Equals(c.Status, OK), qt.Commentf("%+v", c))
		qt.Check(t, qt.Not(qt.Equals(c.Found, "")), qt.Commentf("%+v", c))
	}
	gone := errors.New("connection refused")
	for name, c := range map[string]struct {
		change func(*Facts)
		check  string
		want   Status
		found  string
	}{
		"does not run":        {func(f *Facts) { f.Idle = gone }, "installation", Failed, "connection refused"},
		"no address":          {func(f *Facts) { f.Ports = nil }, "control-port", Failed, "nothing listens"},
		"a port":              {func(f *Facts) { f.Ports[0].Err = gone }, "control-port", Warning, "192.0.2.7:7077: connection refused"},
		"a host":              {func(f *Facts) { f.Hosts[0].Control = Control{Err: gone, Remedy: "start it"} }, "hosts", Warning, "1 of 1 hosts: connection refused"},
		"a host, not yet":     {func(f *Facts) { f.Hosts[0].Control = Control{} }, "hosts", Warning, "host b was not reached yet"},
		"a silent host":       {func(f *Facts) { f.Hosts[0].Alive = false }, "hosts", Warning, "host b is connected, and does not reach the directory"},
		"the directory":       {func(f *Facts) { f.Directory.Err = gone }, "directory", Warning, "can't be asked"},
		"no member":           {func(f *Facts) { f.Directory.Ports = nil }, "directory-ports", Warning, "no member"},
		"all members":         {func(f *Facts) { f.Directory.Ports[0].Err = gone }, "directory-ports", Warning, "none of 1 members"},
		"a member":            {func(f *Facts) { f.Directory.Ports = append(f.Directory.Ports, Port{"192.0.2.8:7078", gone}) }, "directory-ports", Warning, "1 of 2 members"},
		"a small MTU":         {func(f *Facts) { f.Devices[0].MTU = 1280 }, "underlay", Warning, "has MTU 1280"},
		"a missing device":    {func(f *Facts) { f.Devices[0].Name = "" }, "underlay", Warning, "no device has address 192.0.2.7"},
		"no device":           {func(f *Facts) { f.Devices = nil }, "underlay", Failed, "no address where channels can begin"},
		"a clock ahead":       {func(f *Facts) { f.Hosts[0].Control.Skew = 3 * time.Second }, "clocks", Warning, "that of b is 3s ahead"},
		"a clock behind":      {func(f *Facts) { f.Hosts[0].Control.Skew = -2 * time.Hour }, "clocks", Failed, "that of b is 2h0m0s behind"},
		"another version":     {func(f *Facts) { f.Hosts[0].Version = "1.2.4" }, "versions", Warning, "b has 1.2.4"},
		"no common version":   {func(f *Facts) { f.Hosts[0].Control = Control{Err: gone, Incompatible: true} }, "versions", Failed, "connection refused"},
		"an old certificate":  {func(f *Facts) { f.Certificate = noon }, "certificate", Failed, "ended at 2026-11-30 12:00:00 UTC"},
		"a late renewal":      {func(f *Facts) { f.RenewAt = noon.AddDate(0, 0, -2) }, "certificate", Warning, "should have been renewed at 2026-11-28"},
		"no BPF":              {func(f *Facts) { f.Kernel.BPF = gone }, "bpf", Warning, "channels to other hosts are VXLAN"},
		"no WireGuard":        {func(f *Facts) { f.Kernel.WireGuard = gone }, "wireguard", Warning, "channels are encrypted by a process"},
		"a name that is gone": {func(f *Facts) { f.Unreached = []string{"app web is on host b"} }, "reached-apps", Warning, "all apps of this one: app web"},
	} {
		t.Run(name, func(t *testing.T) {
			f := well()
			c.change(f)
			for _, got := range Checkup(f) {
				if got.Name == c.check {
					qt.Check(t, qt.Equals(got.Status, c.want))
					qt.Check(t, qt.StringContains(got.Found, c.found))
					qt.Check(t, qt.IsTrue(got.Remedy != "" || name == "a host, not yet"))
					return
				}
			}
			t.Errorf("no check %s", c.check)
		})
	}
}
