package template

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Plan is what makes a clone what it is. It has secrets that were made for it: it
// is made once for each clone and then kept, for example as JSON, where only root
// can read it.
type Plan struct {
	// Hostname is what the clone sees. Empty: the frozen one.
	Hostname string `json:"hostname,omitempty"`
	// MachineID replaces the clone's machine id; the zero value keeps it.
	MachineID PlannedMachineID `json:"machine_id"`
	// Env are KEY=VALUE, sorted: variables of commands that are run later, those
	// of Commands included.
	Env       []string          `json:"env,omitempty"`
	Files     []PlannedFile     `json:"files,omitempty"`
	Redirects []PlannedRedirect `json:"redirects,omitempty"`
	Commands  []PlannedCommand  `json:"commands,omitempty"`
	// Signal is for the root process; 0 is none.
	Signal unix.Signal `json:"signal,omitempty"`
	// Connections has no default in it.
	Connections Connections `json:"connections"`
	Publish     []Published `json:"publish,omitempty"`
	// Instance is what the clone is told about itself.
	Instance InstanceFile `json:"instance"`
}

// PlannedMachineID is the id that replaces a clone's.
type PlannedMachineID struct {
	ID string `json:"id,omitempty"` // 32 hexadecimal digits; empty: the clone keeps its own
	// Create tells to write it also if the app has no machine id.
	Create bool `json:"create,omitempty"`
}

// PlannedFile is a file to write.
type PlannedFile struct {
	Path    string       `json:"path"`
	Mode    *fs.FileMode `json:"mode,omitempty"`  // nil: that of the file there, or 0644
	Owner   string       `json:"owner,omitempty"` // as File.Owner
	Content []byte       `json:"content"`
}

// PlannedRedirect is a link to make.
type PlannedRedirect struct {
	Path   string `json:"path"`
	Target string `json:"target"`
}

// PlannedCommand is a command to run.
type PlannedCommand struct {
	Args    []string      `json:"args"`
	Timeout time.Duration `json:"timeout_ns"`
	User    string        `json:"user,omitempty"`
}

// Plan says what the rules mean for one clone. The error is [RuleErrors], which
// have the places of the rules that can't be followed.
func (r *Rules) Plan(in Instance) (*Plan, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	f := &finder{at: r.at}
	in.check(f)
	set := r.set(f, in)
	if err := f.err(); err != nil {
		return nil, err // all else would follow from it
	}
	p := &Plan{Connections: r.Connections.resolve()}
	p.Signal, _ = r.Signal.number() // validated
	render := renderer(f, in.data(in.Hostname, set))
	p.Hostname = render("hostname", r.Hostname)
	if p.Hostname != "" && (!hostnames.MatchString(p.Hostname) || len(p.Hostname) > 64) {
		f.bad("hostname", badHostname, p.Hostname)
	}
	hostname := in.Hostname
	if p.Hostname != "" {
		hostname = p.Hostname
	}
	render = renderer(f, in.data(hostname, set))
	p.MachineID = r.planMachineID()
	for _, key := range keys(r.Env) {
		p.Env = append(p.Env, key+"="+render("env."+key, r.Env[key]))
	}
	r.planFiles(f, p, render)
	for i, c := range r.Run {
		cmd := PlannedCommand{Timeout: c.Timeout, User: c.User}
		if cmd.Timeout == 0 {
			cmd.Timeout = DefaultTimeout
		}
		for j, arg := range c.Args {
			cmd.Args = append(cmd.Args, render(index(index("run", i)+".args", j), arg))
		}
		p.Commands = append(p.Commands, cmd)
	}
	r.refuseShared(f, in)
	r.planPublications(f, p, render)
	p.Instance = r.instanceFile(in, hostname, set)
	p.refuseNUL(f)
	if err := f.err(); err != nil {
		return nil, err
	}
	return p, nil
}

func (r *Rules) planMachineID() PlannedMachineID {
	if r.MachineID == MachineIDKeep {
		return PlannedMachineID{}
	}
	return PlannedMachineID{ID: strings.ReplaceAll(newUUID(), "-", ""), Create: r.MachineID == MachineIDUnique}
}

func renderer(f *finder, d data) func(at string, t Text) string {
	return func(at string, t Text) string {
		text, err := t.render(d)
		if err != nil {
			f.badText(at, err)
		}
		return text
	}
}

// set is the value of each declared parameter, empty if there is none.
func (r *Rules) set(f *finder, in Instance) map[string]string {
	declared := keys(r.Parameters)
	for _, key := range keys(in.Set) {
		if !slices.Contains(declared, key) {
			f.bad("parameters", "there is no parameter %s: %s", key, named(declared))
		}
	}
	set := make(map[string]string, len(declared))
	for _, key := range declared {
		p, at := r.Parameters[key], "parameters."+key
		value, ok := in.Set[key]
		switch {
		case !ok && p.Required:
			f.bad(at, "it has no value: choose one with --set %s=VALUE%s", key, p.about())
		case !ok && p.Default != nil:
			value = renderer(f, in.data(in.Hostname, nil))(at+".default", *p.Default)
			ok = true
		}
		if pattern, _ := p.compile(); ok && pattern != nil && !pattern.MatchString(value) {
			shown := strconv.Quote(value)
			if p.Secret {
				shown = "the value"
			}
			f.bad(at, "%s does not match the pattern %s%s", shown, p.Pattern, p.about())
		}
		set[key] = value
	}
	return set
}

// about is the description after an error.
func (p Parameter) about() string {
	if p.Description == "" {
		return ""
	}
	return " (" + p.Description + ")"
}

// resolve replaces the default.
func (c Connections) resolve() Connections {
	c.Inbound = cmp.Or(c.Inbound, ConnectionReset)
	c.Outbound = cmp.Or(c.Outbound, ConnectionReset)
	c.Internal = cmp.Or(c.Internal, ConnectionKeep)
	return c
}

func (r *Rules) planFiles(f *finder, p *Plan, render func(string, Text) string) {
	for i, one := range r.Redirect {
		at := index("redirect", i) + ".target"
		found := len(f.found)
		target := render(at, one.Target)
		if len(f.found) == found {
			checkPath(f, at, target)
		}
		if len(f.found) == found {
			checkLoop(f, at, one.Path, target)
		}
		p.Redirects = append(p.Redirects, PlannedRedirect{Path: one.Path, Target: target})
	}
	for i, one := range r.Files {
		file := PlannedFile{Path: one.Path, Owner: one.Owner}
		if one.Content != nil {
			file.Content = []byte(*one.Content)
		} else {
			file.Content = []byte(render(index("files", i)+".template", *one.Template))
		}
		if one.Mode != "" {
			bits, _ := strconv.ParseUint(one.Mode, 8, 32) // validated
			mode := fileMode(uint32(bits))
			file.Mode = &mode
		}
		p.Files = append(p.Files, file)
	}
}

// fileMode is a mode of chmod(2) as Go has it.
func fileMode(bits uint32) fs.FileMode {
	mode := fs.FileMode(bits & 0o777)
	for bit, m := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if bits&bit != 0 {
			mode |= m
		}
	}
	return mode
}

// refuseShared refuses what only one clone can have.
func (r *Rules) refuseShared(f *finder, in Instance) {
	if !in.others() {
		return
	}
	for at, policy := range r.Connections.each() {
		// Both ends of an internal one are copied with the clone.
		if policy == ConnectionKeep && at != "connections.internal" {
			f.bad(at, "keep is for one clone: a connection has one other end, which would hear %s at once; "+
				"make one clone only, or use reset", plural(in.Count+in.Existing, "clone"))
		}
	}
	for i, p := range r.Publish {
		if p.HostPort.static() && p.HostAddress.static() {
			f.bad(index("publish", i)+".host_port", "port %s would be the same for %s: make it differ, as in '{{ add %s .Number }}'",
				p.HostPort, plural(in.Count+in.Existing, "clone"), p.HostPort)
		}
	}
}

func (r *Rules) planPublications(f *finder, p *Plan, render func(string, Text) string) {
	for i, one := range r.Publish {
		at := index("publish", i)
		found := len(f.found)
		pub := one.publish(f, at, render)
		if len(f.found) > found {
			continue
		}
		for _, other := range p.Publish {
			if pub.meets(other) {
				f.bad(at+".host_port", "host port %d/%s is published twice", pub.HostPort, pub.Protocol)
			}
		}
		p.Publish = append(p.Publish, pub)
	}
}

// meets tells whether both would need the same port of the host.
func (p Published) meets(q Published) bool {
	return p.Protocol == q.Protocol && p.HostPort == q.HostPort &&
		(p.HostAddress == q.HostAddress || !p.HostAddress.IsValid() || !q.HostAddress.IsValid())
}

// refuseNUL refuses what the kernel would cut off: execve(2) takes strings.
func (p *Plan) refuseNUL(f *finder) {
	for _, e := range p.Env {
		if key, value, _ := strings.Cut(e, "="); strings.ContainsRune(value, 0) {
			f.bad("env."+key, "it has a NUL character in it")
		}
	}
	for i, c := range p.Commands {
		for j, arg := range c.Args {
			if strings.ContainsRune(arg, 0) {
				f.bad(index(index("run", i)+".args", j), "it has a NUL character in it")
			}
		}
		if c.Args[0] == "" {
			f.bad(index("run", i)+".args", "the program's name is empty")
		}
	}
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
