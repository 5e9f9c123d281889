package template

import (
	"encoding/json"
	"testing"

	"github.com/go-quicktest/qt"
)

func exampleIDs() IDMap {
	return IDMap{
		{Kind: IDHostname, Virtual: "web", Actual: "host-a"},
		{Kind: IDAddress, Virtual: "10.77.0.7", Actual: "10.77.0.20", Detail: "network default"},
		{Kind: IDAddress, Virtual: "fd77::7", Actual: "fd77::20"},
		{Kind: IDPort, Virtual: "10.77.0.7:80/tcp", Actual: "*:8007/tcp"},
		{Kind: IDPort, Virtual: "10.77.0.7:80/tcp", Actual: "127.0.0.1:9007/tcp"},
		{Kind: IDPath, Virtual: "/", Actual: "/run/snapctl/apps/web-7/root"},
		{Kind: IDStorage, Virtual: "shared", Actual: "/var/lib/snapctl/snapshots/web/storage"},
		{Kind: IDPid, Virtual: "1", Actual: "4711"},
		{Kind: IDPid, Virtual: "10"},
		{Kind: IDNamespace, Virtual: "net", Actual: "net:[4026532240]"},
		{Kind: IDIPC, Virtual: "shm key 1 id 0", Actual: "ipc:[4026532239] id 0"},
	}
}

func TestIDMap(t *testing.T) {
	m := exampleIDs()
	qt.Assert(t, qt.IsNil(m.Validate()))
	text, err := json.Marshal(m)
	qt.Assert(t, qt.IsNil(err))
	back, err := ParseIDMap(text)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.DeepEquals(back, m))

	actual, ok := m.Actual(IDPid, "1")
	qt.Check(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals(actual, "4711"))
	_, ok = m.Actual(IDPid, "2")
	qt.Check(t, qt.IsFalse(ok))
}

func TestIDMapSort(t *testing.T) {
	m := exampleIDs()
	m[7], m[8] = m[8], m[7] // pid 10 before pid 1
	m[0], m[10] = m[10], m[0]
	m.Sort()
	qt.Assert(t, qt.DeepEquals(m, exampleIDs()))
}

func TestIDMapErrors(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"not JSON":    {`{`, `invalid id map: unexpected end of JSON input`},
		"kind":        {`[{"kind":"uid","virtual":"0","actual":"1"}]`, `invalid id map: entry 0: kind "uid": want hostname, address, port, path, storage, pid, namespace or ipc`},
		"pid":         {`[{"kind":"pid","virtual":"0","actual":"1"}]`, `.*"0" is not the inside of a pid`},
		"outside":     {`[{"kind":"pid","virtual":"1","actual":"-1"}]`, `.*"-1" is not the outside of a pid`},
		"address":     {`[{"kind":"address","virtual":"10.77.0.7","actual":"network default"}]`, `.*"network default" is not the outside of a address`},
		"port":        {`[{"kind":"port","virtual":"10.77.0.7:80","actual":"*:80/tcp"}]`, `.*"10.77.0.7:80" is not the inside of a port`},
		"no port":     {`[{"kind":"port","virtual":"10.77.0.7:0/tcp","actual":"*:80/tcp"}]`, `.*is not the inside of a port`},
		"protocol":    {`[{"kind":"port","virtual":"10.77.0.7:80/sctp","actual":"*:80/tcp"}]`, `.*is not the inside of a port`},
		"path":        {`[{"kind":"path","virtual":"etc","actual":"/etc"}]`, `.*"etc" is not the inside of a path`},
		"nothing":     {`[{"kind":"ipc","virtual":"","actual":"x"}]`, `.*"" is not the inside of a ipc`},
		"second time": {`[{"kind":"pid","virtual":"1","actual":"7"},{"kind":"pid","virtual":"1","actual":"8"}]`, `invalid id map: entry 1: pid "1" a second time`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseIDMap([]byte(test.text))
			qt.Check(t, qt.ErrorMatches(err, test.want))
			qt.Check(t, qt.ErrorIs(err, ErrInvalid))
		})
	}
}

func FuzzIDMap(f *testing.F) {
	text, err := json.Marshal(exampleIDs())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseIDMap(text)
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, ErrInvalid))
			return
		}
		m.Sort()
		qt.Assert(t, qt.IsNil(m.Validate()))
	})
}
