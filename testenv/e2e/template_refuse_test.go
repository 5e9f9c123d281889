package e2e

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// TestImpossibleClones has each request refused with what is wrong with it, and
// nothing made.
func TestImpossibleClones(t *testing.T) {
	w := New(t)
	w.actor(&api.RunRequest{Name: "web", Endpoint: actorEndpoint})
	w.caller(actorEndpoint).close()
	w.template("t", "web", "{parameters: {OWNER: {required: true, pattern: '[a-z]+'}}, hostname: '{{ .Set.OWNER }}'}")
	for name, tt := range map[string]struct {
		args []string
		code int
		says string // the error and its hints
	}{
		"no such template":      {[]string{"nothing"}, 4, "(?s).*template nothing: not found.*template ls.*"},
		"too many":              {[]string{"t", "--count", "1000000000"}, 2, "(?s).*1000000000 clones: want 1 to 1000000\n.*"},
		"more than addresses":   {[]string{"t", "--count", "70000"}, 1, `(?s).*70000 clones are too many: network default \(10.77.0.0/16\) has 65532 free addresses\n`},
		"two of a name":         {[]string{"t", "--name", "a", "--name", "a"}, 2, "(?s).*two clones called a\n"},
		"a name that is taken":  {[]string{"t", "--name", "web"}, 1, "(?s).*app web: already exists.*choose another --name-pattern, --name or --endpoint.*"},
		"two of an endpoint":    {[]string{"t", "--endpoint", "10.77.0.9", "--endpoint", "10.77.0.9"}, 2, "(?s).*endpoint 10.77.0.9 twice\n"},
		"an endpoint in use":    {[]string{"t", "--endpoint", actorEndpoint, "--set", "OWNER=a"}, 1, "(?s).*app web has endpoint " + actorEndpoint + " of network default\n.*choose another.*"},
		"an endpoint elsewhere": {[]string{"t", "--endpoint", "192.0.2.7", "--set", "OWNER=a"}, 2, "(?s).*192.0.2.7: address outside the network 10.77.0.0/16\n"},
		"the gateway's":         {[]string{"t", "--endpoint", "10.77.0.1", "--set", "OWNER=a"}, 2, "(?s).*10.77.0.1: address reserved: it is the gateway's\n"},
		"nothing set":           {[]string{"t"}, 2, "(?s).*OWNER.*"},
		"something else set":    {[]string{"t", "--set", "OWNER=a", "--set", "OTHER=a"}, 2, "(?s).*OTHER.*"},
		"wrongly set":           {[]string{"t", "--set", "OWNER=A"}, 2, `(?s).*OWNER.*\[a-z\]\+.*`},
		"none ready":            {[]string{"t", "--pool", "only", "--set", "OWNER=a"}, 1, "(?s).*no clone stands ready\n.*template pool --size.*"},
		"ready ones, changed":   {[]string{"t", "--pool", "only", "--storage", "private", "--set", "OWNER=a"}, 2, "(?s).*ask for neither.*"},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.CLI(append([]string{"clone"}, tt.args...)...)
			qt.Check(t, qt.Equals(r.Code, tt.code))
			qt.Check(t, qt.Matches(r.Stderr, tt.says))
			qt.Check(t, qt.Equals(r.Stdout, ""))
			qt.Check(t, qt.DeepEquals(w.names(), []string{"web"}))
		})
	}
	w.RemoveAll()
	w.empty()
}
