package template

import (
	"strings"
	"time"
)

// Rules say what must differ between clones of one template. The zero value
// keeps all as it was frozen, but for the machine id and for connections.
//
// They are made by [Parse]; [Rules.Validate] checks those made otherwise.
type Rules struct {
	// Hostname is the host name that the clone sees. Empty: the frozen one, which
	// is also .Hostname in this text and in defaults of parameters; in all others
	// .Hostname is the clone's.
	Hostname Text `yaml:"hostname"`
	// MachineID says what becomes of /etc/machine-id.
	MachineID MachineID `yaml:"machine_id"`
	// Env are variables of commands that are run in the clone later. The frozen
	// processes keep the environment that they were started with.
	Env map[string]Text `yaml:"env"`
	// Files are written before the processes go on.
	Files []File `yaml:"files"`
	// Memory says how each clone gets its memory back, now and later.
	Memory Memory `yaml:"memory"`
	// Redirect leads fixed paths to places that differ.
	Redirect []Redirect `yaml:"redirect"`
	// Run is run in the clone after its processes were restored and before
	// traffic gets to it, in this order.
	Run []Command `yaml:"run"`
	// Signal is sent to the root process after that. Empty: none.
	Signal Signal `yaml:"signal"`
	// Connections says what becomes of frozen connections.
	Connections Connections `yaml:"connections"`
	// Publish makes ports of each clone reachable at the host's addresses.
	Publish []Publication `yaml:"publish"`
	// Parameters may be set for each clone.
	Parameters map[string]Parameter `yaml:"parameters"`

	at positions // where in the YAML each value is
}

// Text is a text in the language of text/template, see [Functions]. Without
// "{{" it stands for itself.
type Text string

// static tells whether the text is the same for each clone.
func (t Text) static() bool { return !strings.Contains(string(t), "{{") }

// MachineID says what becomes of /etc/machine-id, by which systemd, D-Bus and
// many programs tell machines apart.
type MachineID string

// The policies. The default is a new id for each clone if the app has such a
// file, and none if it has not.
const (
	MachineIDDefault MachineID = ""
	MachineIDKeep    MachineID = "keep"
	MachineIDUnique  MachineID = "unique" // also if the app has no such file
)

func (MachineID) words() []string { return []string{string(MachineIDKeep), string(MachineIDUnique)} }

// Memory says how processes get their memory back when they are cloned or woken.
type Memory string

// The ways. The default is that of the saved app.
const (
	MemoryDefault Memory = ""
	MemoryMapped  Memory = "mapped" // where that can be: clones share what they don't write to
	MemoryCopied  Memory = "copied" // for programs that take a refused madvise for fatal
)

func (Memory) words() []string { return []string{string(MemoryMapped), string(MemoryCopied)} }

// File is a file to be written. One that a frozen process has open can't be
// written: see [Plan.CheckOpen].
type File struct {
	// Path is absolute, as the clone sees it. Symbolic links are followed as the
	// clone would.
	Path string `yaml:"path"`
	// Mode is octal, such as 0640. Empty: that of the file there, or 0644.
	Mode string `yaml:"mode"`
	// Owner is USER, UID, USER:GROUP or UID:GID; names are the clone's own.
	// Empty: that of the file there, or root.
	Owner string `yaml:"owner"`
	// Content is written as it is, Template is rendered. There is one of them.
	Content  *string `yaml:"content"`
	Template *Text   `yaml:"template"`
}

// Redirect makes a path that the frozen processes know lead to a place that is
// the clone's own: it becomes a relative symbolic link, which both the clone and
// CRIU follow. What is at the path is moved to the target, unless there is
// something already. A path that a frozen process has open can't be redirected:
// see [Plan.CheckOpen].
type Redirect struct {
	Path string `yaml:"path"`
	// Target is absolute. It may be below a bind of the app's, such as a
	// directory that all clones share; then it is made there.
	Target Text `yaml:"target"`
}

// DefaultTimeout bounds a command that has no timeout of its own.
const DefaultTimeout = 30 * time.Second

// Command is run inside the clone. One that fails, or takes longer than its
// timeout, fails the clone.
type Command struct {
	Args    []Text        `yaml:"args"`
	Timeout time.Duration `yaml:"timeout"` // zero: DefaultTimeout
	User    string        `yaml:"user"`    // as the owner of a File; empty: root
}

// Signal is the name of a signal, with or without SIG.
type Signal string

// Connections says what becomes of the connections that were frozen.
type Connections struct {
	Inbound  ConnectionPolicy `yaml:"inbound" json:"inbound"`   // a client's, to the app
	Outbound ConnectionPolicy `yaml:"outbound" json:"outbound"` // the app's, to a server
	Internal ConnectionPolicy `yaml:"internal" json:"internal"` // both ends are the app's
}

// ConnectionPolicy is what becomes of a frozen connection.
type ConnectionPolicy string

// The policies. The default is keep for internal connections, and reset for others.
const (
	ConnectionDefault ConnectionPolicy = ""
	// ConnectionReset lets the clone see a reset, as if the peer had gone.
	ConnectionReset ConnectionPolicy = "reset"
	// ConnectionKeep lets the clone have the connection itself.
	ConnectionKeep ConnectionPolicy = "keep"
	// ConnectionRewire leads it to the peer's clone of the same chain.
	ConnectionRewire ConnectionPolicy = "rewire"
)

func (ConnectionPolicy) words() []string {
	return []string{string(ConnectionReset), string(ConnectionKeep), string(ConnectionRewire)}
}

// Publication makes a port of the clone reachable at the host's addresses.
type Publication struct {
	HostAddress Text     `yaml:"host_address"` // empty: every address of the host
	HostPort    Text     `yaml:"host_port"`
	Port        Text     `yaml:"port"` // the app's
	Protocol    Protocol `yaml:"protocol"`
}

// Protocol is what is published.
type Protocol string

// The protocols. The default is TCP.
const (
	TCP Protocol = "tcp"
	UDP Protocol = "udp"
)

func (Protocol) words() []string { return []string{string(TCP), string(UDP)} }

// Parameter may be set for each clone; texts have its value as .Set.KEY.
type Parameter struct {
	Description string `yaml:"description"`
	// Default is the value if none is set. It can't use .Set.
	Default *Text `yaml:"default"`
	// Required tells that there is no clone without a value.
	Required bool `yaml:"required"`
	// Pattern is a regular expression that the whole value has to match.
	Pattern string `yaml:"pattern"`
	// Secret keeps the value out of [InstanceFile].
	Secret bool `yaml:"secret"`
}
