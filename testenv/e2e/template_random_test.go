package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/testenv"
)

// draws reads what an app has said of what it drew the last time, by generator.
func (w *World) draws(app string) map[string]string {
	w.t.Helper()
	drawn := make(map[string]string)
	w.Until(app+" draws", func() error {
		b, err := os.ReadFile(w.Outside(filepath.Join(w.StateDir(), "apps", app, "log")))
		if err != nil {
			return err
		}
		lines := regexp.MustCompile(`(?m)^.*=.*\n`).FindAllString(string(b), -1)
		if len(lines) == 0 {
			return fmt.Errorf("it has said %q", b)
		}
		for word := range strings.FieldsSeq(lines[len(lines)-1]) {
			name, value, _ := strings.Cut(word, "=")
			drawn[name] = value
		}
		return nil
	})
	return drawn
}

// TestRandomNumbersOfClones measures what TEMPLATES.md says: which generators give two
// clones the same numbers.
func TestRandomNumbersOfClones(t *testing.T) {
	w := New(t)
	table, err := os.ReadFile("../../TEMPLATES.md")
	qt.Assert(t, qt.IsNil(err))
	testdata := func(name string) string {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		qt.Assert(t, qt.IsNil(err))
		path := w.Path("bin", name)
		qt.Assert(t, qt.IsNil(os.MkdirAll(filepath.Dir(path), 0o755)))
		qt.Assert(t, qt.IsNil(os.WriteFile(path, data, 0o644)))
		return path
	}
	dice, err := w.Install(t.Context(), "dice")
	qt.Assert(t, qt.IsNil(err))
	for name, test := range map[string]struct {
		need    []string
		args    []string
		signal  string          // USR1
		repeats map[string]bool // by generator
		noted   string          // what is said when the template is made; "" for nothing
	}{
		"Go": {
			args:    []string{dice},
			repeats: map[string]bool{"crypto/rand": false, "math/rand/v2": true, "seeded": true},
		},
		"Python": {
			need: []string{"/usr/bin/python3"}, args: []string{"/usr/bin/python3", testdata("dice.py")},
			repeats: map[string]bool{
				"os.urandom": false, "secrets": false, "uuid.uuid4": false, "random": true, "ssl.RAND_bytes": true, "ssl-in-a-child": false,
				"after-RAND_add": false,
			},
			noted: `.*OpenSSL in process 1 \(python3\); Python's module random in process 1 .*`,
		},
		"Node.js": {
			need: []string{"node"}, args: []string{"node", testdata("dice.js")}, signal: "USR2",
			repeats: map[string]bool{"crypto.randomBytes": true, "crypto.randomUUID": true, "Math.random": true},
			noted:   `.*OpenSSL in process 1 \(node\).*Math\.random in .*`,
		},
		"Java": {
			need: []string{"java", "javac"}, args: []string{"java", "-Xmx64m", "-cp", w.Path("bin"), "Dice"},
			repeats: map[string]bool{"SecureRandom": false, "UUID.randomUUID": false, "Math.random": true, "Random": true},
			noted:   `.*Math\.random in process 1 \(java\).*`,
		},
		"Perl": {
			need: []string{"perl"}, args: []string{"perl", "-e", `$|=1; sub draw { print "rand=", rand(), "\n" } $SIG{USR1} = \&draw; draw; sleep 1000 while 1`},
			repeats: map[string]bool{"rand": true},
			noted:   `.*rand in process 1 \(perl\).*`,
		},
		"bash": {
			args:    []string{"bash", "-c", `draw() { echo "RANDOM=$RANDOM SRANDOM=$SRANDOM"; }; trap draw USR1; draw; while :; do sleep 1000 & wait; done`},
			repeats: map[string]bool{"RANDOM": true, "SRANDOM": false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, program := range test.need {
				testenv.Need(t, testenv.Program(program))
			}
			if name == "Java" {
				out, err := exec.CommandContext(t.Context(), "javac", "-d", w.Path("bin"), testdata("Dice.java")).CombinedOutput()
				qt.Assert(t, qt.IsNil(err), qt.Commentf("%s", out))
			}
			w := w.in(t)
			w.Run(&api.RunRequest{Name: "app", Args: test.args, Env: []string{"PATH=" + os.Getenv("PATH")}})
			before := w.draws("app")
			if test.signal == "" {
				test.signal = "USR1"
			}
			r, err := w.API.CreateTemplate(t.Context(), &api.CreateTemplateRequest{Name: "t", App: "app", RulesYaml: "signal: " + test.signal}, nil)
			qt.Assert(t, qt.IsNil(err))
			var notes []string
			for _, n := range r.GetNotes() {
				notes = append(notes, n.GetText())
			}
			if test.noted == "" {
				qt.Check(t, qt.HasLen(notes, 0))
			} else {
				qt.Check(t, qt.Matches(strings.Join(notes, "\n"), test.noted))
			}
			w.clones(&api.CloneRequest{Template: "t", Names: []string{"one", "two"}})
			one, two := w.draws("one"), w.draws("two")
			for generator, repeats := range test.repeats {
				qt.Assert(t, qt.IsTrue(before[generator] != "" && one[generator] != "" && one[generator] != before[generator]))
				qt.Check(t, qt.Equals(one[generator] == two[generator], repeats), qt.Commentf("%s of %s: %s and %s", generator, name, one[generator], two[generator]))
				word := map[bool]string{true: "repeats", false: "differs"}[repeats]
				row := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(name) + ` \|.*` + regexp.QuoteMeta("`"+generator+"`") + `.*\| ` + word + ` \|`)
				qt.Check(t, qt.IsTrue(row.Match(table)), qt.Commentf("TEMPLATES.md has no row for %s of %s, which %s", generator, name, word))
			}
		})
	}
}

// TestRandomNumbersOfNginx has clones of it give requests the same ids, unless a signal
// has each start other processes.
func TestRandomNumbersOfNginx(t *testing.T) {
	w := New(t, "nginx")
	const conf = `daemon off; user root; pid /tmp/nginx.pid; error_log /dev/stderr; events {}
http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
	server { listen 80; location / { return 200 "$request_id"; } } }`
	w.Run(&api.RunRequest{
		Name: "web", Endpoint: "10.77.0.30", Env: []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin", "CONF=" + conf},
		Args: []string{"sh", "-ec", `echo "$CONF" > /tmp/nginx.conf; exec nginx -c /tmp/nginx.conf -e /dev/stderr`},
	})
	get := func(endpoint string) (id string) {
		w.Until("nginx answers", func() error {
			var err error
			id, err = w.get(endpoint)
			return err
		})
		return id
	}
	get("10.77.0.30")
	for rules, repeats := range map[string]bool{"": true, "signal: HUP": false} {
		w.template("t", "web", rules)
		all := w.clones(&api.CloneRequest{Template: "t", Count: 2})
		one, two := all[0].GetApp().GetEndpoint(), all[1].GetApp().GetEndpoint()
		// The old process may take a request after the signal; the new one goes on.
		if repeats {
			qt.Check(t, qt.Equals(get(one), get(two)))
		} else {
			w.Until("the ids differ", func() error {
				if id := get(one); id == get(two) {
					return fmt.Errorf("both are %s", id)
				}
				return nil
			})
		}
		for _, r := range all {
			qt.Assert(t, qt.IsNil(w.API.Remove(t.Context(), &api.RemoveRequest{Name: r.GetName(), Force: true})))
		}
		qt.Assert(t, qt.IsNil(w.API.RemoveTemplate(t.Context(), "t")))
	}
}

// get fetches the document of a web server that has but one, by a connection of its own.
func (w *World) get(endpoint string) (string, error) {
	c := http.Client{Transport: &http.Transport{DialContext: w.DialContext, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://"+endpoint, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
