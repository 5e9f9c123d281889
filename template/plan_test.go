package template

import (
	"encoding/json"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

func clone(edit ...func(*Instance)) Instance {
	in := Instance{
		Name: "web-7", Template: "web", Number: 7, Count: 1,
		Endpoint: netip.MustParseAddr("10.77.0.20"), Endpoint6: netip.MustParseAddr("fd77::20"), Network: "default",
		Hostname: "origin", Generation: "g1", CreatedAt: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC),
	}
	for _, f := range edit {
		f(&in)
	}
	return in
}

func set(pairs ...string) func(*Instance) {
	return func(in *Instance) {
		in.Set = make(map[string]string)
		for i := 0; i < len(pairs); i += 2 {
			in.Set[pairs[i]] = pairs[i+1]
		}
	}
}

func crowd(in *Instance) { in.Count = 3 }

func TestPlan(t *testing.T) {
	p, err := parseFile(t, "full.yaml").Plan(clone(set("OWNER", "me", "STEP", "100")))
	qt.Assert(t, qt.IsNil(err))

	secret := p.MachineID.ID
	qt.Check(t, qt.Matches(secret, "[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}"))
	qt.Assert(t, qt.CmpEquals(p, &Plan{
		Hostname:  "web-7",
		MachineID: PlannedMachineID{ID: secret, Create: true},
		Env:       []string{"MODE=production", "WORKER=7"},
		Files: []PlannedFile{
			{Path: "/etc/worker.conf", Mode: new(fs.FileMode(0o640)), Owner: "worker:worker", Content: []byte(
				"id = 7 of 1\naddress = 10.77.0.20 fd77::20 in default\nname = WEB-7, of web, hello from web-7\n")},
			{Path: "/etc/motd", Content: []byte("{{ not rendered }}\n")},
		},
		Redirects: []PlannedRedirect{{Path: "/var/lib/worker", Target: "/srv/web-7"}},
		Commands: []PlannedCommand{
			{Args: []string{"/usr/local/bin/reseed", "--id", "7"}, Timeout: 5 * time.Second, User: "worker"},
			{Args: []string{"/bin/true"}, Timeout: DefaultTimeout},
		},
		Signal:      unix.SIGHUP,
		Connections: Connections{ConnectionReset, ConnectionReset, ConnectionKeep},
		Publish: []Published{
			{Protocol: TCP, HostAddress: netip.MustParseAddr("127.0.0.1"), HostPort: 8007, Port: 80},
			{Protocol: UDP, HostPort: 9107, Port: 53},
		},
		Instance: InstanceFile{
			SchemaVersion: 1, Name: "web-7", Number: 7, Template: "web", Endpoint: "10.77.0.20", Endpoint6: "fd77::20", Hostname: "web-7",
			Generation: "g1", CreatedAt: clone().CreatedAt,
			Parameters: map[string]string{"GREETING": "hello from web-7", "STEP": "100", "OWNER": "me"},
		},
	}, compareAddrs))
}

// What is left out keeps what was frozen, but for connections and machine ids.
func TestPlanOfNoRules(t *testing.T) {
	p, err := (&Rules{}).Plan(clone(crowd))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(p.Hostname, ""))
	qt.Check(t, qt.Equals(p.Instance.Hostname, "origin"))
	qt.Check(t, qt.Equals(p.Connections, Connections{ConnectionReset, ConnectionReset, ConnectionKeep}))
	qt.Check(t, qt.IsFalse(p.MachineID.Create))
	qt.Check(t, qt.HasLen(p.MachineID.ID, 32))

	p, err = (&Rules{MachineID: MachineIDKeep}).Plan(clone())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(p.MachineID, PlannedMachineID{}))
}

// No two clones have the same secrets, and one clone has the same everywhere.
func TestSecretsAreUnique(t *testing.T) {
	r, err := Parse([]byte(`
env: {A: "{{ .Set.TOKEN }}", B: "{{ .Set.TOKEN }}", C: "{{ random 4 }}", D: "{{ uuid }}"}
parameters: {TOKEN: {default: "{{ random 16 }}", secret: true}}
`))
	qt.Assert(t, qt.IsNil(err))
	seen := make(map[string]bool)
	for range 2 {
		p, err := r.Plan(clone())
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Matches(strings.Join(p.Env, " "),
			"A=[0-9a-f]{32} B=[0-9a-f]{32} C=[0-9a-f]{8} D=[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"))
		qt.Check(t, qt.Equals(p.Env[0][2:], p.Env[1][2:]))
		qt.Check(t, qt.HasLen(p.Instance.Parameters, 0))
		for _, e := range append(p.Env[1:], p.MachineID.ID) {
			qt.Check(t, qt.IsFalse(seen[e]), qt.Commentf("%s", e))
			seen[e] = true
		}
	}
	qt.Check(t, qt.Not(qt.Equals(NewGeneration(), NewGeneration())))
}

func TestTexts(t *testing.T) {
	for text, want := range map[Text]string{
		`plain`:                      "plain",
		`{{ add .Number 1 "2" -3 }}`: "7",
		`{{ default "x" .Set.EMPTY }}{{ default 1 5 }}`:              "x5",
		`{{ lower "ABC" }}{{ upper .Name }}`:                         "abcWEB-7",
		`{{ printf "%03d" .Number }}`:                                "007",
		`{{ if eq .Number 7 }}seven{{ end }}`:                        "seven",
		`{{ range $k, $v := .Set }}{{ $k }}={{ $v }};{{ end }}`:      "EMPTY=;X=y;",
		`{{ with .Name }}{{ . }} {{ $.Number }}{{ end }}`:            "web-7 7",
		`{{ with .Set }}{{ .X }}{{ end }}`:                           "y",
		`{{ define "a" }}<{{ . }}>{{ end }}{{ template "a" .Name }}`: "<web-7>",
	} {
		r := &Rules{Env: map[string]Text{"A": text}, Parameters: map[string]Parameter{"EMPTY": {}, "X": {}}}
		p, err := r.Plan(clone(set("X", "y")))
		qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", text))
		qt.Check(t, qt.Equals(p.Env[0], "A="+want), qt.Commentf("%s", text))
	}
}

// Nothing of the host can be had from a text.
func TestTextsHaveNoHost(t *testing.T) {
	for _, text := range []Text{`{{ env "HOME" }}`, `{{ .Env.HOME }}`, `{{ file "/etc/passwd" }}`, `{{ now }}`} {
		qt.Check(t, qt.IsNotNil((&Rules{Hostname: text}).Validate()), qt.Commentf("%s", text))
	}
	qt.Check(t, qt.DeepEquals(Functions(), []string{"add", "default", "lower", "random", "upper", "uuid"}))
}

// Each error of a plan says which rule it is about.
func TestPlanErrors(t *testing.T) {
	for name, test := range map[string]struct {
		rules string
		in    Instance
		want  string
	}{
		"parameter not declared": {
			rules: "parameters: {A: {}}", in: clone(set("B", "x")),
			want: `line 1, column 13: parameters: there is no parameter B: there are A`,
		},
		"no parameters at all": {in: clone(set("B", "x")), want: `line 1, column 1: parameters: there is no parameter B: there are none`},
		"parameter missing": {
			rules: "parameters:\n  A: {required: true, description: the owner}", in: clone(),
			want: `line 2, column 6: parameters.A: it has no value: choose one with --set A=VALUE (the owner)`,
		},
		"parameter does not match": {
			rules: "parameters:\n  A: {pattern: '[a-z]+'}", in: clone(set("A", "a1")),
			want: `line 2, column 6: parameters.A: "a1" does not match the pattern [a-z]+`,
		},
		"secret does not match": {
			rules: "parameters:\n  A: {pattern: '[a-z]+', secret: true}", in: clone(set("A", "a1")),
			want: `line 2, column 6: parameters.A: the value does not match the pattern [a-z]+`,
		},
		"rendered default does not match": {
			rules: "parameters:\n  A: {pattern: '[a-z]+', default: '{{ .Number }}'}", in: clone(),
			want: `line 2, column 6: parameters.A: "7" does not match the pattern [a-z]+`,
		},
		"hostname": {
			rules: `hostname: "{{ .Name }}_x"`, in: clone(),
			want: `line 1, column 11: hostname: "web-7_x" is no host name: want up to 64 letters, digits, '-' and '.'`,
		},
		"hostname too long": {
			rules: `hostname: "{{ .Name }}` + strings.Repeat(".a234567890", 6) + `"`, in: clone(),
			want: `line 1, column 11: hostname: "web-7` + strings.Repeat(".a234567890", 6) + `" is no host name: want up to 64 letters, digits, '-' and '.'`,
		},
		"not a number": {
			rules: "env:\n  A: '{{ add .Name 1 }}'", in: clone(),
			want: `line 2, column 6: env.A: at <add .Name 1>: error calling add: "web-7" is not a whole number`,
		},
		"in a block": {
			rules: "files:\n  - path: /a\n    template: |\n      x\n      {{ random 0 }}\n", in: clone(),
			want: `line 5, column 1: files[0].template: at <random 0>: error calling random: 0 bytes: want 1 to 1024`,
		},
		"undeclared by another way": {
			rules: "env:\n  A: '{{ with .Set }}{{ .NOPE }}{{ end }}'\nparameters: {B: {}}", in: clone(),
			want: `line 2, column 6: env.A: at <.NOPE>: map has no entry for key "NOPE"`,
		},
		"too long": {
			rules: `hostname: "{{ range .Number }}{{ random 1024 }}{{ range 600 }}{{ random 1024 }}{{ end }}{{ end }}"`, in: clone(),
			want: `line 1, column 11: hostname: it becomes longer than 1048576 bytes`,
		},
		"redirect": {
			rules: "redirect:\n  - {path: /data, target: '/data/{{ .Name }}'}", in: clone(),
			want: `line 2, column 27: redirect[0].target: /data and /data/web-7: one is in the other`,
		},
		"redirect nowhere": {
			rules: "redirect:\n  - {path: /data, target: '{{ .Set.A }}'}\nparameters: {A: {}}", in: clone(),
			want: `line 2, column 27: redirect[0].target: no path: want an absolute one such as /etc/app.conf`,
		},
		"redirect to a device": {
			rules: "redirect:\n  - {path: /data, target: '/dev/{{ .Name }}'}", in: clone(),
			want: `line 2, column 27: redirect[0].target: /dev/web-7: /dev is not part of the app's files`,
		},
		"keep for many": {
			rules: "connections:\n  inbound: keep\n  internal: keep", in: clone(crowd),
			want: `line 2, column 12: connections.inbound: keep is for one clone: a connection has one other end, which would hear 3 clones at once; make one clone only, or use reset`,
		},
		"keep besides others": {
			rules: "connections:\n  outbound: keep", in: clone(func(in *Instance) { in.Existing = 1 }),
			want: `line 2, column 13: connections.outbound: keep is for one clone: a connection has one other end, which would hear 2 clones at once; make one clone only, or use reset`,
		},
		"rewire": {
			rules: "connections:\n  outbound: rewire", in: clone(),
			want: `line 2, column 13: connections.outbound: rewire needs chains, in which the peer is cloned too, and this snapctl has none: use reset`,
		},
		"same port for all": {
			rules: "publish:\n  - {host_port: 8080, port: 80}", in: clone(crowd),
			want: `line 2, column 17: publish[0].host_port: port 8080 would be the same for 3 clones: make it differ, as in '{{ add 8080 .Number }}'`,
		},
		"no port": {
			rules: "publish:\n  - {host_port: '{{ add 65530 .Number }}', port: 80}", in: clone(),
			want: `line 2, column 17: publish[0].host_port: "65537": want a port from 1 to 65535`,
		},
		"no address": {
			rules: "publish:\n  - {host_port: 80, port: 80, host_address: '{{ .Endpoint6 }}'}", in: clone(),
			want: `line 2, column 45: publish[0].host_address: "fd77::20": want an IPv4 address of the host, or leave it out for all`,
		},
		"port twice": {
			rules: "publish:\n  - {host_port: 8007, port: 80, host_address: 127.0.0.1}\n  - {host_port: '{{ add 8000 .Number }}', port: 81}", in: clone(),
			want: `line 3, column 17: publish[1].host_port: host port 8007/tcp is published twice`,
		},
		"NUL": {
			rules: "env: {A: \"{{ .Name }}\\0\"}\nrun: [{args: [a, \"b\\0\"]}, {args: ['{{ .Set.X }}']}]\nparameters: {X: {}}", in: clone(),
			want: "line 1, column 10: env.A: it has a NUL character in it\nline 2, column 18: run[0].args[1]: it has a NUL character in it\n" +
				"line 2, column 34: run[1].args: the program's name is empty",
		},
		"instance": {in: Instance{Name: "a/b"}, want: "line 1, column 1: name \"a/b\": use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit\n" +
			"line 1, column 1: clone a/b is number 0 of 0, besides 0\nline 1, column 1: clone a/b has no endpoint or no generation"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Parse([]byte(test.rules))
			if err == nil {
				_, err = r.Plan(test.in)
			}
			qt.Assert(t, qt.ErrorIs(err, ErrInvalid))
			qt.Assert(t, qt.Equals(err.Error(), test.want))
		})
	}
}

// One clone may keep its connections, and publish a fixed port.
func TestOneClone(t *testing.T) {
	r, err := Parse([]byte("connections: {inbound: keep, outbound: keep}\npublish: [{host_port: 8080, port: 80}]"))
	qt.Assert(t, qt.IsNil(err))
	p, err := r.Plan(clone())
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(p.Connections, Connections{ConnectionKeep, ConnectionKeep, ConnectionKeep}))
}

// Both ends of an internal connection are copied.
func TestInternalConnectionsOfMany(t *testing.T) {
	_, err := (&Rules{Connections: Connections{Internal: ConnectionKeep}}).Plan(clone(crowd))
	qt.Assert(t, qt.IsNil(err))
}

func TestCheckOpen(t *testing.T) {
	dir := makeTree(t, t.TempDir(), map[string]string{"/etc/machine-id": "0", "/var/run": "-> /run", "/var/lib/dbus/machine-id": "-> /etc/machine-id"})
	p := &Plan{
		MachineID: PlannedMachineID{ID: "1f"},
		Files:     []PlannedFile{{Path: "/etc/app.conf"}, {Path: "/var/run/pid"}}, Redirects: []PlannedRedirect{{"/data", "/srv"}, {"/var/run/cache", "/srv"}},
	}
	qt.Assert(t, qt.IsNil(p.CheckOpen(dir, []string{"/etc/app.conf.d", "/database", "/etc", "/", "/run", "/srv"})))
	err := p.CheckOpen(dir, []string{"/etc/app.conf", "/data/db", "/data", "/run/pid", "/run/cache/x", "/etc/machine-id", InstancePath})
	qt.Assert(t, qt.ErrorIs(err, ErrInvalid))
	const (
		write    = ` is open in the snapshot, so it can't be written: have the program close it before it is saved, or let run change it`
		redirect = ` can't be redirected: only what is closed when the app is saved can be`
		id       = `machine_id: /etc/machine-id is open in the snapshot, so it can't be replaced: have the program close it before it is saved, or use keep`
	)
	qt.Check(t, qt.DeepEquals(strings.Split(err.Error(), "\n"), []string{
		"/run/snapctl/instance.json is open in the snapshot, so it can't be replaced: programs have to close it when they have read it",
		"files: /etc/app.conf" + write, "files: /run/pid" + write, id,
		"redirect: /data/db is open in the snapshot, so /data" + redirect, "redirect: /data is open in the snapshot, so /data" + redirect,
		"redirect: /run/cache/x is open in the snapshot, so /var/run/cache" + redirect,
	}))
	// Who keeps its machine id may have it open.
	qt.Check(t, qt.IsNil((&Plan{}).CheckOpen(dir, []string{"/etc/machine-id"})))
	qt.Check(t, qt.ErrorMatches(p.CheckOpen("/nowhere", nil), "check open files: .*"))
}

// A plan is kept with its clone.
func TestPlanAsJSON(t *testing.T) {
	p, err := parseFile(t, "full.yaml").Plan(clone(set("OWNER", "me")))
	qt.Assert(t, qt.IsNil(err))
	text, err := json.Marshal(p)
	qt.Assert(t, qt.IsNil(err))
	var back Plan
	qt.Assert(t, qt.IsNil(json.Unmarshal(text, &back)))
	qt.Assert(t, qt.CmpEquals(&back, p, compareAddrs))
}

func TestModes(t *testing.T) {
	for mode, want := range map[string]fs.FileMode{"0644": 0o644, "04755": 0o755 | fs.ModeSetuid, "01777": 0o777 | fs.ModeSticky, "02750": 0o750 | fs.ModeSetgid} {
		r := &Rules{Files: []File{{Path: "/a", Mode: mode, Content: new("")}}}
		p, err := r.Plan(clone())
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(*p.Files[0].Mode, want))
	}
}

// Whatever rules can be parsed, a plan of them is one or has problems.
func FuzzPlan(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full, "OWNER", "me")
	golden, err := txtar.ParseFile("testdata/errors.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range golden.Files {
		f.Add(file.Data, "A", "x")
	}
	loops := regexp.MustCompile(`range|template|block|printf`)
	f.Fuzz(func(t *testing.T, text []byte, key, value string) {
		if loops.Match(text) {
			t.Skip("can be made to take as long as one likes")
		}
		r, err := Parse(text)
		if err != nil {
			return
		}
		p, err := r.Plan(clone(set(key, value)))
		if err != nil {
			qt.Assert(t, qt.ErrorIs(err, ErrInvalid))
			return
		}
		for _, redirect := range p.Redirects {
			qt.Assert(t, qt.IsTrue(strings.HasPrefix(redirect.Target, "/")))
		}
		for _, pub := range p.Publish {
			qt.Assert(t, qt.IsTrue(pub.HostPort > 0 && pub.Port > 0))
		}
	})
}

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
