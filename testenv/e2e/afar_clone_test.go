package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/runtime/fault"
	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/gate"
	"github.com/snapctl/snapctl/testenv/host"
)

// cloned is what snapctl clone prints.
type cloned struct {
	Results []struct {
		Name, Host string
		App        struct {
			Endpoint string
			Number   int
		}
	}
	Failures []struct{ Name, Error string }
	Notes    []string
}

// perHost counts the clones that were made by their hosts.
func (c *cloned) perHost() map[string]int {
	count := make(map[string]int)
	for _, r := range c.Results {
		count[r.Host]++
	}
	return count
}

// clone makes clones of template web, and returns the exit code.
func (hs *hosts) clone(w *World, flags ...string) (c cloned, code int) {
	hs.t.Helper()
	r := w.CLI(append([]string{"clone", "web", "-o", "json"}, flags...)...)
	qt.Assert(hs.t, qt.IsNil(json.Unmarshal([]byte(r.Stdout), &c)), qt.Commentf("%s %s", r.Stdout, r.Stderr))
	hs.t.Logf("clone %v: exit code %d, %+v", flags, r.Code, c)
	return c, r.Code
}

// templates are those of a host.
func (w *World) templates() []string {
	w.t.Helper()
	all, err := w.API.ListTemplates(w.t.Context())
	qt.Assert(w.t, qt.IsNil(err))
	names := []string{}
	for _, t := range all {
		names = append(names, t.GetName())
	}
	return names
}

// newShop makes hosts, of which the first one has a template of a Redis that has a value.
func newShop(t *testing.T, names ...string) *hosts {
	t.Helper()
	testenv.Need(t, testenv.Program("redis-server"), testenv.Program("redis-cli"), testenv.Program("ip"), testenv.Program("nft"))
	hs := newInstallation(t, names...)
	alpha := hs.worlds[0]
	endpoint := alpha.Run(redisRequest("cache", "")).GetEndpoint()
	alpha.asks("cache", endpoint, "OK", "SET", "key", "kept")
	rules := filepath.Join(alpha.Dir(), "rules.yaml")
	qt.Assert(t, qt.IsNil(os.WriteFile(alpha.Outside(rules), []byte("hostname: shop-{{.Name}}\n"), 0o600)))
	alpha.OK("template", "create", "web", "--from", "cache", "--rules", rules)
	alpha.OK("rm", "--force", "cache")
	return hs
}

// isShop proves that a clone runs on a host, and is one of the template.
func (hs *hosts) isShop(w *World, name string) {
	hs.t.Helper()
	a := w.Show(name)
	w.asks(name, a.GetEndpoint(), "kept", "GET", "key")
	qt.Check(hs.t, qt.Equals(w.OK("exec", name, "--", "hostname"), "shop-"+name+"\n"))
	w.owner(a.GetEndpoint(), w.Name())
}

// TestTemplatesTravel takes a template to other hosts, which make clones of it.
func TestTemplatesTravel(t *testing.T) {
	hs := newShop(t, "alpha", "beta", "gamma")
	alpha, beta, gamma := hs.worlds[0], hs.worlds[1], hs.worlds[2]
	var first, again transferred
	alpha.JSON(&first, "template", "push", "web", "--to", "beta")
	alpha.JSON(&again, "template", "push", "web", "--to", "beta", "--as", "other")
	t.Logf("first: %+v; again: %+v", first, again)
	qt.Check(t, qt.IsTrue(again.SentBytes < first.SentBytes))
	gamma.OK("template", "pull", "web", "--from", "beta")
	for _, w := range []*World{beta, gamma} {
		mine, err := w.API.ShowTemplate(t.Context(), "web")
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(mine.GetSnapshot(), "web"))
		qt.Check(t, qt.StringContains(mine.GetRulesYaml(), "shop-"))
	}
	// Names go through all hosts, whichever makes a clone.
	for i, w := range []*World{beta, alpha, gamma} {
		name := fmt.Sprintf("web-%d", i+1)
		w.Until("the hosts know of one another's apps", func() error {
			if _, err := w.API.Show(t.Context(), name); err == nil {
				return nil
			}
			r := w.CLI("clone", "web", "--name-pattern", "web-{n}")
			if r.Code != 0 {
				return errors.New(r.Stderr)
			}
			return nil
		})
		hs.isShop(w, name)
	}
	for _, test := range []struct {
		world *World
		code  int
		want  string
		args  []string
	}{
		{alpha, 1, "host beta: template web: already exists", []string{"push", "web", "--to", "beta"}},
		{gamma, 1, "template web: already exists", []string{"pull", "web", "--from", "beta"}},
		{alpha, 4, "template nothing: not found", []string{"push", "nothing", "--to", "beta"}},
		{alpha, 4, "host beta: template nothing: not found", []string{"pull", "nothing", "--from", "beta"}},
		{alpha, 4, "host nowhere: not found", []string{"pull", "web", "--from", "nowhere"}},
		{alpha, 2, "host alpha is this host", []string{"pull", "web", "--from", "alpha"}},
	} {
		r := test.world.CLI(append([]string{"template"}, test.args...)...)
		qt.Check(t, qt.Equals(r.Code, test.code), qt.Commentf("%v: %s", test.args, r.Stderr))
		qt.Check(t, qt.StringContains(r.Stderr, test.want))
	}
	// A snapshot of somebody's is not touched.
	beta.OK("rm", "--force", "web-1")
	beta.OK("template", "rm", "other")
	gamma.OK("snapshot", "web-3", "--name", "other")
	r := alpha.CLI("template", "push", "web", "--to", "gamma", "--as", "other")
	qt.Check(t, qt.Equals(r.Code, 1))
	qt.Check(t, qt.StringContains(r.Stderr, "snapshot other: already exists"))
	qt.Check(t, qt.DeepEquals(gamma.snapshots(), []string{"other", "web"}))
	qt.Check(t, qt.DeepEquals(gamma.templates(), []string{"web"}))
}

// TestClonesAfar has other hosts make clones of a template of this one.
func TestClonesAfar(t *testing.T) {
	hs := newShop(t, "alpha", "beta", "gamma")
	alpha, beta, gamma := hs.worlds[0], hs.worlds[1], hs.worlds[2]
	c, code := hs.clone(alpha, "--host", "beta", "--count", "2")
	qt.Assert(t, qt.Equals(code, 0))
	qt.Check(t, qt.DeepEquals(c.perHost(), map[string]int{"beta": 2}))
	hs.isShop(beta, "web-1")
	hs.isShop(beta, "web-2")
	// What fails leaves neither clones nor, where it was not, the template.
	c, code = hs.clone(alpha, "--host", "gamma", "--name", "new", "--name", "web-1")
	qt.Check(t, qt.Equals(code, 1))
	qt.Check(t, qt.HasLen(c.Results, 0))
	qt.Check(t, qt.HasLen(gamma.templates(), 0))
	qt.Check(t, qt.HasLen(gamma.snapshots(), 0))
	qt.Check(t, qt.Equals(gamma.CLI("show", "new").Code, 4))
	qt.Check(t, qt.DeepEquals(beta.templates(), []string{"web"}))

	// They are spread, by the memory that is available: it is one machine.
	c, code = hs.clone(alpha, "--host", "spread", "--count", "6")
	qt.Assert(t, qt.Equals(code, 0))
	qt.Check(t, qt.DeepEquals(c.perHost(), map[string]int{"alpha": 2, "beta": 2, "gamma": 2}))
	all := map[string]*World{"alpha": alpha, "beta": beta, "gamma": gamma}
	var numbers []int
	for _, r := range c.Results {
		hs.isShop(all[r.Host], r.Name)
		qt.Check(t, qt.Equals(r.Name, fmt.Sprintf("web-%d", r.App.Number)))
		numbers = append(numbers, r.App.Number)
	}
	slices.Sort(numbers)
	qt.Check(t, qt.DeepEquals(numbers, []int{3, 4, 5, 6, 7, 8}))

	// What others have made stays if one can't: it has another template of that name.
	gamma.RemoveAll() // the template, too
	gamma.Run(redisRequest("strange", ""))
	gamma.OK("template", "create", "web", "--from", "strange")
	c, code = hs.clone(beta, "--host", "spread", "--count", "3", "--start", "20")
	qt.Check(t, qt.Equals(code, 6))
	qt.Check(t, qt.DeepEquals(c.perHost(), map[string]int{"alpha": 1, "beta": 1}))
	qt.Assert(t, qt.HasLen(c.Failures, 1))
	qt.Check(t, qt.StringContains(c.Failures[0].Error, "host gamma: there is another template web: already exists"))
	for _, r := range c.Results {
		hs.isShop(all[r.Host], r.Name)
	}
}

// TestTemplatePushIsKilled has the daemon of the target die while it gets a template: it has all of it, or nothing.
func TestTemplatePushIsKilled(t *testing.T) {
	hs := newShop(t, "alpha", "beta")
	alpha, beta := hs.worlds[0], hs.worlds[1]
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for _, point := range []fault.Name{cargo.Filled, cargo.Adopted, cargo.Committed} {
		qt.Assert(t, qt.IsNil(beta.RestartDaemon(ctx, syscall.SIGTERM, host.Daemon{Env: gate.Env(gate.Kill(point))})))
		beta.Dial()
		alpha.Until(string(point), func() error {
			r := alpha.CLI("template", "push", "web", "--to", "beta") //nolint:contextcheck // it has the test's
			qt.Assert(t, qt.Not(qt.Equals(r.Code, 0)), qt.Commentf("%s: %s", point, r.Stdout))
			if _, err := beta.DaemonPID(); err == nil && !gone(ctx, beta) {
				return errors.New(r.Stderr)
			}
			return nil
		})
		qt.Assert(t, qt.IsNil(beta.StartDaemon(ctx, host.Daemon{})))
		beta.Dial()
		qt.Check(t, qt.HasLen(beta.templates(), 0)) // its record is not whole
		qt.Check(t, qt.HasLen(beta.snapshots(), 0))
		beta.nothingPartial()
	}
	alpha.Until("it comes in the end", func() error {
		if r := alpha.CLI("template", "push", "web", "--to", "beta"); r.Code != 0 {
			return errors.New(r.Stderr)
		}
		return nil
	})
	beta.OK("clone", "web")
	hs.isShop(beta, "web-1")
}
