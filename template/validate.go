package template

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Validate checks all that can be known without a clone. The error is
// [RuleErrors].
func (r *Rules) Validate() error {
	f := &finder{at: r.at}
	set := keys(r.Parameters)
	if set == nil {
		set = []string{}
	}
	text := func(at string, t Text) {
		if err := t.check(set); err != nil {
			f.badText(at, err)
		}
	}
	text("hostname", r.Hostname)
	if r.Hostname.static() && r.Hostname != "" && !hostnames.MatchString(string(r.Hostname)) {
		f.bad("hostname", badHostname, r.Hostname)
	}
	word(f, "machine_id", r.MachineID, r.MachineID.words())
	word(f, "memory", r.Memory, r.Memory.words())
	for key, value := range r.Env {
		if !variables.MatchString(key) {
			f.bad("env."+key, "a variable's name is made of letters, digits and '_', and does not begin with a digit")
		}
		text("env."+key, value)
	}
	r.validateFiles(f, text)
	r.validateRedirects(f, text)
	for i, c := range r.Run {
		at := index("run", i)
		if len(c.Args) == 0 || c.Args[0] == "" {
			f.bad(at+".args", "no program: want a list of it and its arguments, such as [/usr/bin/touch, /run/ready]")
		}
		for j, arg := range c.Args {
			text(index(at+".args", j), arg)
		}
		if c.Timeout < 0 {
			f.bad(at+".timeout", "want a time such as 10s or 1m30s")
		}
		if strings.ContainsAny(c.User, " \t\n\x00") {
			f.bad(at+".user", "%q: want USER, UID, USER:GROUP or UID:GID", c.User)
		}
	}
	if _, err := r.Signal.number(); err != nil {
		f.bad("signal", "%v", err)
	}
	r.validateConnections(f)
	for i, p := range r.Publish {
		at := index("publish", i)
		word(f, at+".protocol", p.Protocol, p.Protocol.words())
		text(at+".host_address", p.HostAddress)
		text(at+".host_port", p.HostPort)
		text(at+".port", p.Port)
		publishStatic(f, at, p)
	}
	r.validateParameters(f)
	return f.err()
}

// word checks a value that is one of some words, or left out.
func word[T ~string](f *finder, at string, value T, words []string) {
	if value != "" && !slices.Contains(words, string(value)) {
		f.bad(at, "%q: want %s", value, anyOf(words))
	}
}

var (
	variables = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	modes     = regexp.MustCompile(`^0[0-7]{3,4}$`)
	owners    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?(:[A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?$`)
	// hostnames is RFC 1123; Linux takes up to 64 bytes (__NEW_UTS_LEN,
	// include/uapi/linux/utsname.h), and a label is at most 63.
	hostnames = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$`)
)

const badHostname = "%q is no host name: want up to 64 letters, digits, '-' and '.'"

func (r *Rules) validateFiles(f *finder, text func(string, Text)) {
	seen := make(map[string]bool)
	for i, file := range r.Files {
		at := index("files", i)
		checkPath(f, at+".path", file.Path)
		if seen[file.Path] {
			f.bad(at+".path", "%s a second time", file.Path)
		}
		seen[file.Path] = true
		switch {
		case file.Content == nil && file.Template == nil:
			f.bad(at, "no content: want content, which is written as it is, or template, which is rendered")
		case file.Content != nil && file.Template != nil:
			f.bad(at+".content", "content and template: want one of them")
		case file.Template != nil:
			text(at+".template", *file.Template)
		}
		if file.Mode != "" && !modes.MatchString(file.Mode) {
			f.bad(at+".mode", "%q: want octal digits such as 0640 or 04755", file.Mode)
		}
		if file.Owner != "" && !owners.MatchString(file.Owner) {
			f.bad(at+".owner", "%q: want USER, UID, USER:GROUP or UID:GID", file.Owner)
		}
	}
}

// foreign are directories that are not part of an app's root.
var foreign = []string{"/dev", "/proc", "/sys"}

// checkPath checks a path inside of the clone. An empty one is missing.
func checkPath(f *finder, at, p string) {
	switch {
	case p == "":
		f.bad(at, "no path: want an absolute one such as /etc/app.conf")
	case !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0):
		f.bad(at, "%q: want an absolute path without '.', '..' and doubled or trailing '/'", p)
	case p == InstancePath:
		f.bad(at, "%s is written by snapctl", p)
	default:
		for _, dir := range foreign {
			if below(p, dir) {
				f.bad(at, "%s: %s is not part of the app's files", p, dir)
			}
		}
	}
}

// below tells whether p is dir or in it.
func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func (r *Rules) validateRedirects(f *finder, text func(string, Text)) {
	for i, one := range r.Redirect {
		at := index("redirect", i)
		checkPath(f, at+".path", one.Path)
		text(at+".target", one.Target)
		switch {
		case one.Target == "":
			f.bad(at+".target", "no target: want an absolute path such as '/srv/{{ .Name }}'")
		case one.Target.static():
			checkPath(f, at+".target", string(one.Target))
			checkLoop(f, at+".target", one.Path, string(one.Target))
		}
		for j, other := range r.Redirect {
			if i != j && below(one.Path, other.Path) && (i > j || one.Path != other.Path) {
				f.bad(at+".path", "%s: %s is redirected itself", one.Path, other.Path)
			}
		}
		for _, file := range r.Files {
			if file.Path == one.Path {
				f.bad(at+".path", "%s is a file to be written: write the target instead", one.Path)
			}
		}
		if below(InstancePath, one.Path) {
			f.bad(at+".path", "%s: %s has to stay below it", one.Path, InstancePath)
		}
	}
}

// checkLoop checks that a link would not lead to itself.
func checkLoop(f *finder, at, link, target string) {
	if below(target, link) || below(link, target) {
		f.bad(at, "%s and %s: one is in the other", link, target)
	}
}

// number is the signal; 0 is none.
func (s Signal) number() (unix.Signal, error) {
	if s == "" {
		return 0, nil
	}
	name := strings.ToUpper(string(s))
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	n := unix.SignalNum(name)
	if n == 0 {
		return 0, badSignal(string(s), "want the name of a signal, such as HUP or SIGUSR1")
	}
	if n == unix.SIGKILL || n == unix.SIGSTOP {
		return 0, badSignal(string(s), "no program can handle it: want another, such as HUP or SIGUSR1")
	}
	return n, nil
}

type signalError struct{ name, text string }

func badSignal(name, text string) error { return &signalError{name, text} }

func (e *signalError) Error() string { return strconv.Quote(e.name) + ": " + e.text }

const noRewire = "rewire needs chains, in which the peer is cloned too, and this snapctl has none: use reset"

func (r *Rules) validateConnections(f *finder) {
	for at, policy := range r.Connections.each() {
		word(f, at, policy, policy.words())
		if policy == ConnectionRewire {
			f.bad(at, noRewire)
		}
	}
}

// each yields the policies by their paths.
func (c Connections) each() func(func(string, ConnectionPolicy) bool) {
	return func(yield func(string, ConnectionPolicy) bool) {
		_ = yield("connections.inbound", c.Inbound) &&
			yield("connections.outbound", c.Outbound) &&
			yield("connections.internal", c.Internal)
	}
}

func (r *Rules) validateParameters(f *finder) {
	for key, p := range r.Parameters {
		at := "parameters." + key
		if !variables.MatchString(key) {
			f.bad(at, "a parameter's name is made of letters, digits and '_', and does not begin with a digit")
		}
		if p.Default != nil && p.Required {
			f.bad(at+".required", "it has a default: want one of them")
		}
		pattern, err := p.compile()
		if err != nil {
			f.bad(at+".pattern", "%v", err)
		}
		if p.Default == nil {
			continue
		}
		if err := p.Default.check(nil); err != nil {
			f.badText(at+".default", err)
		} else if p.Default.static() && pattern != nil && !pattern.MatchString(string(*p.Default)) {
			f.bad(at+".default", "%q does not match the pattern %s", *p.Default, p.Pattern)
		}
	}
}

// compile is the pattern for a whole value, or nil.
func (p Parameter) compile() (*regexp.Regexp, error) {
	if p.Pattern == "" {
		return nil, nil //nolint:nilnil // no pattern is no error
	}
	if _, err := regexp.Compile(p.Pattern); err != nil { // by itself, so that ")(" is found
		return nil, err
	}
	return regexp.Compile(`^(?:` + p.Pattern + `)$`)
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
