package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// allRules uses every key.
const allRules = `
hostname: "{{ .Name }}-{{ .Number }}"
machine_id: unique
env:
  WHO: "{{ .Name }}"
  MODE: "{{ .Set.MODE }}"
files:
  - path: /etc/app.conf
    template: "name={{ .Name }} mode={{ .Set.MODE }} at={{ .Endpoint }}"
    mode: "0640"
    owner: "1000:1001"
  - path: /etc/secret
    template: "{{ random 16 }} {{ .Set.TOKEN }}"
  - path: /tmp/plain
    content: "{{ not rendered }}"
redirect:
  - path: /tmp/data
    target: "/shared/{{ .Name }}"
run:
  - args: ["/bin/sh", "-c", "hostname > /tmp/ran; echo $WHO $MODE >> /tmp/ran; ls /proc/1/exe >/dev/null"]
signal: HUP
connections: {inbound: reset, outbound: reset, internal: reset}
publish:
  - {host_port: "{{ add 8000 .Number }}", port: "7000"}
  - {host_port: "{{ add 8000 .Number }}", port: "7000", protocol: udp}
parameters:
  MODE: {default: plain, pattern: "[a-z]+"}
  TOKEN: {default: "{{ random 8 }}", secret: true}
`

// TestRules follows all rules, with and without a pool.
func TestRules(t *testing.T) {
	w := New(t)
	shared := w.hostDir("shared")
	w.actor(&api.RunRequest{
		Name: "web", Endpoint: actorEndpoint, Hostname: "frozen",
		Binds: []*api.Bind{{Source: shared, Destination: "/shared"}},
	})
	original := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(original.ask("mkdir /tmp/data"), "ok"))
	qt.Assert(t, qt.Equals(original.ask("write /tmp/data/file frozen"), "ok"))
	qt.Assert(t, qt.Equals(original.ask("mkdir /run/snapctl"), "ok"))
	qt.Assert(t, qt.Equals(original.ask("watch /run/snapctl/instance.json"), "ok"))
	w.template("t", "web", allRules)
	w.pool("t", 1)

	first := w.clones(&api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_ONLY, Set: map[string]string{"MODE": "test"}})[0]
	qt.Assert(t, qt.IsTrue(first.GetFromPool()))
	more := w.clones(&api.CloneRequest{Template: "t", Count: 2, Pool: api.PoolUse_POOL_USE_NEVER})
	secrets, ids := make(map[string]bool), make(map[string]bool)
	for i, r := range append([]*api.CloneResult{first}, more...) {
		a := r.GetApp()
		name, mode := fmt.Sprintf("t-%d", i+1), "plain"
		if i == 0 {
			mode = "test"
		}
		c := w.caller(a.GetEndpoint())
		qt.Assert(t, qt.Equals(a.GetName(), name))
		qt.Assert(t, qt.Equals(a.GetHostname(), fmt.Sprintf("%s-%d", name, i+1)))
		qt.Assert(t, qt.Equals(c.ask("host"), a.GetHostname()))
		qt.Assert(t, qt.Equals(c.ask("read /etc/app.conf"), fmt.Sprintf("name=%s mode=%s at=%s", name, mode, a.GetEndpoint())))
		qt.Assert(t, qt.Equals(c.ask("mode /etc/app.conf"), "-rw-r----- 1000 1001"))
		qt.Assert(t, qt.Equals(c.ask("read /tmp/plain"), "{{ not rendered }}"))
		qt.Assert(t, qt.Equals(c.ask("line /tmp/ran"), fmt.Sprintf("%s %s %s", a.GetHostname(), name, mode)))
		qt.Assert(t, qt.Equals(c.ask("hangups"), "1"))
		qt.Assert(t, qt.Equals(strings.TrimSpace(w.OK("exec", name, "--", "/bin/sh", "-c", "echo $WHO")), name))
		// What was there has moved to the clone's own place in the shared directory.
		qt.Assert(t, qt.Equals(c.ask("read /tmp/data/file"), "frozen"))
		qt.Assert(t, qt.Equals(c.ask("write /tmp/data/file %s", name), "ok"))
		b, err := os.ReadFile(filepath.Join(shared, name, "file"))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.Equals(string(b), name))
		for s := range strings.FieldsSeq(c.ask("read /etc/secret")) {
			qt.Assert(t, qt.IsFalse(secrets[s]))
			secrets[s] = true
		}
		id := c.ask("read /etc/machine-id")
		qt.Assert(t, qt.IsFalse(ids[id]))
		qt.Assert(t, qt.Matches(id, `[0-9a-f]{32}`))
		ids[id] = true
		file := c.instance()
		qt.Assert(t, qt.DeepEquals(file.Parameters, map[string]string{"MODE": mode}))
		qt.Assert(t, qt.Equals(file.Hostname, a.GetHostname()))
		qt.Assert(t, qt.Equals(file.Generation, a.GetGeneration()))
		w.Until("it notices", func() error {
			if n := c.ask("watched"); n == "0" {
				return errors.New("no event")
			}
			return nil
		})
		qt.Assert(t, qt.Equals(w.from(w.Host, "tcp", fmt.Sprintf("127.0.0.1:%d", 8001+i)).ask("instance"), name))
		// A wake is no new generation.
		w.Hibernate(name)
		qt.Assert(t, qt.Equals(c.ask("instance"), name))
		w.Running(name)
		qt.Assert(t, qt.Equals(c.instance().Generation, a.GetGeneration()))
		qt.Assert(t, qt.Equals(w.from(w.Host, "tcp", fmt.Sprintf("127.0.0.1:%d", 8001+i)).ask("host"), a.GetHostname()))
	}
	qt.Assert(t, qt.Equals(original.ask("read /tmp/data/file"), "frozen"))
	qt.Assert(t, qt.Equals(original.ask("hangups"), "0"))
	qt.Assert(t, qt.Equals(original.ask("watched"), "0"))

	names := w.names()
	r := w.CLI("clone", "t", "--set", "MODE=UPPER")
	qt.Assert(t, qt.Equals(r.Code, 2))
	qt.Assert(t, qt.StringContains(r.Stderr, "parameters.MODE"))
	qt.Assert(t, qt.DeepEquals(w.names(), names))
	w.RemoveAll()
	w.empty()
}

// TestRulesThatFail undoes clones whose rules can't be followed.
func TestRulesThatFail(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint, Publish: []*api.Publication{{Protocol: "tcp", HostPort: 9000, Port: 7000}}})
	c := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(c.ask("hold /tmp/held"), "ok"))
	_, err := w.API.TakeSnapshot(t.Context(), &api.SnapshotRequest{App: "web", Name: "s"}, nil)
	qt.Assert(t, qt.IsNil(err))
	tests := map[string]struct{ rules, want string }{
		"port of an app":     {`{publish: [{host_port: "{{ add 8998 .Number }}", port: "7000"}]}`, `(?s).*9000/tcp.*app web has it.*`},
		"one port for three": {`{publish: [{host_port: "9001", port: "7000"}]}`, `(?s).*9001.*`},
		"command fails":      {`{run: [{args: [/bin/sh, -c, "echo why; exit 3"]}]}`, `(?s).*exit status 3: why.*`},
		"no command":         {`{run: [{args: [/no/such]}]}`, `(?s).*/no/such.*`},
		"command is late":    {`{run: [{args: [/bin/sleep, "1000"], timeout: 200ms}]}`, `(?s).*longer than its timeout in the rules, 200ms.*`},
		"its child is late":  {`{run: [{args: [/bin/sh, -c, "sleep 1000; true"], timeout: 200ms}]}`, `(?s).*longer than its timeout in the rules, 200ms.*`},
		"required":           {`{parameters: {KEY: {required: true}}}`, `(?s).*KEY.*`},
		"file is open":       {`{files: [{path: /tmp/held, content: x}]}`, `(?s).*/tmp/held.*open.*`},
		"link is open":       {`{redirect: [{path: /tmp/held, target: /tmp/other}]}`, `(?s).*/tmp/held.*open.*`},
		"no such user":       {`{files: [{path: /tmp/a, content: x, owner: nobody-there}]}`, `(?s).*nobody-there.*`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := &World{Host: w.Host, API: w.API, t: t}
			_, err := w.API.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "t", Snapshot: "s", RulesYaml: tt.rules}, nil)
			qt.Assert(t, qt.IsNil(err))
			for range 2 { // nothing in the way of the second time
				_, err = w.tryClones(&api.CloneRequest{Template: "t", Count: 3})
				qt.Assert(t, qt.ErrorMatches(err, tt.want))
				qt.Assert(t, qt.DeepEquals(w.names(), []string{"web"}))
			}
			qt.Assert(t, qt.IsNil(w.API.RemoveTemplate(t.Context(), "t")))
		})
	}
	for _, policy := range []string{"keep", "rewire"} {
		_, err := w.API.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "t", Snapshot: "s", RulesYaml: "connections: {inbound: " + policy + "}"}, nil)
		qt.Assert(t, qt.ErrorMatches(err, `(?s).*connections.*`+policy+`.*reset.*`))
	}
	w.nothingPartial()
	w.RemoveAll()
	w.empty()
}

// TestCommandsLeaveThingsRunning makes clones with a command that starts something
// and ends: the clone is not waited for any longer, and can be saved.
func TestCommandsLeaveThingsRunning(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	w.caller(actorEndpoint)
	w.template("t", "web", `{run: [{args: [/bin/sh, -c, "sleep 1000000 & echo $! > /tmp/left"]}]}`)
	w.pool("t", 1)
	for _, use := range []api.PoolUse{api.PoolUse_POOL_USE_ONLY, api.PoolUse_POOL_USE_NEVER} {
		ended := make(chan error, 1)
		go func() {
			_, err := w.tryClones(&api.CloneRequest{Template: "t", Pool: use})
			ended <- err
		}()
		select {
		case err := <-ended:
			qt.Assert(t, qt.IsNil(err))
		case <-time.After(time.Minute):
			t.Fatal("the clone is not made, since its command has left something running")
		}
	}
	for _, name := range []string{"t-1", "t-2"} {
		left := strings.TrimSpace(w.OK("exec", name, "--", "cat", "/tmp/left"))
		w.Hibernate(name)
		w.Wake(name)
		qt.Assert(t, qt.Equals(w.OK("exec", name, "--", "cat", "/proc/"+left+"/comm"), "sleep\n"))
	}
}

// TestNoTrafficBeforeCommandsEnd has a client ask all the time: the first answer
// that it gets is of a clone whose commands have ended.
func TestNoTrafficBeforeCommandsEnd(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	w.caller(actorEndpoint)
	w.template("t", "web", `{run: [{args: [/bin/sh, -c, "sleep 0.7; echo done > /tmp/ran"]}]}`)
	for name, test := range map[string]struct {
		endpoint string
		req      *api.CloneRequest
	}{
		"asked for":     {"10.77.0.70", &api.CloneRequest{Template: "t", Endpoints: []string{"10.77.0.70"}}},
		"from the pool": {"10.77.0.2", &api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_ONLY}},
	} {
		t.Run(name, func(t *testing.T) {
			w := &World{Host: w.Host, API: w.API, t: t}
			if test.req.GetPool() == api.PoolUse_POOL_USE_ONLY {
				w.pool("t", 1)
			}
			ended := make(chan error, 1)
			var made []*api.CloneResult
			go func() {
				var err error
				made, err = w.tryClones(test.req)
				ended <- err
			}()
			first := ""
			w.Until("it answers", func() error {
				conn, err := w.DialContext(t.Context(), "tcp", net.JoinHostPort(test.endpoint, "7000"))
				if err != nil {
					return err
				}
				first = newCaller(t, conn).ask("read /tmp/ran")
				return nil
			})
			qt.Assert(t, qt.Equals(first, "done"))
			qt.Assert(t, qt.IsNil(<-ended))
			qt.Assert(t, qt.Equals(made[0].GetApp().GetEndpoint(), test.endpoint))
		})
	}
}

// TestRulesKnowTheClonesUsers runs commands as users of whom only the clone knows, or
// whom it knows by another id than the host does.
func TestRulesKnowTheClonesUsers(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	w.caller(actorEndpoint)
	w.template("t", "web", `
files:
  - path: /etc/passwd
    content: "root:x:0:0::/root:/bin/sh\ndaemon:x:1234:2345::/:/bin/sh\nonly:x:1235:2345::/:/bin/sh\n"
run:
  - {args: ["/bin/sh", "-c", "echo $(id -u) $(id -g) > /tmp/first"], user: daemon}
  - {args: ["/bin/sh", "-c", "echo $(id -u) $(id -g) > /tmp/second"], user: only}
`)
	a := w.clone("t", "one", nil)
	c := w.caller(a.GetEndpoint())
	qt.Assert(t, qt.Equals(c.ask("line /tmp/first"), "1234 2345"))
	qt.Assert(t, qt.Equals(c.ask("line /tmp/second"), "1235 2345"))
	w.template("none", "web", `{run: [{args: ["/bin/true"], user: nobody-at-all}]}`)
	_, err := w.tryClones(&api.CloneRequest{Template: "none"})
	qt.Assert(t, qt.ErrorMatches(err, `(?s).*user "nobody-at-all": the clone's /etc/passwd has no such user.*`))
}

// TestCloneThatWatchesItsInstance has a program that was saved with an inotify(7) watch notice that it is
// a clone, with nothing else in the rules that it could notice.
func TestCloneThatWatchesItsInstance(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	original := w.caller(actorEndpoint)
	qt.Assert(t, qt.Equals(original.ask("mkdir /run/snapctl"), "ok"))
	qt.Assert(t, qt.Equals(original.ask("watch /run/snapctl/instance.json"), "ok"))
	w.template("t", "web", "")
	clone := w.clones(&api.CloneRequest{Template: "t", Pool: api.PoolUse_POOL_USE_NEVER})[0].GetApp()
	c := w.caller(clone.GetEndpoint())
	w.Until("it notices", func() error {
		if c.ask("watched") == "0" {
			return errors.New("no event")
		}
		return nil
	})
	qt.Check(t, qt.Equals(c.instance().Generation, clone.GetGeneration()))
}
