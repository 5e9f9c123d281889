package output

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/template"
)

var update = flag.Bool("update", false, "write the golden files, and the examples in JSON.md")

// promise is the document that promises the JSON.
const promise = "../../../JSON.md"

var at = time.Date(2026, 1, 2, 15, 4, 5, 678_000_000, time.UTC)

func exampleApp() *api.App {
	return &api.App{
		Name: "cache", Status: api.Status_STATUS_RUNNING, Endpoint: "10.77.0.7", Endpoint6: "fd77::7", Network: "default",
		Args: []string{"redis-server", "--save", ""}, Pid: 4711, CreatedAt: timestamppb.New(at), StatusAt: timestamppb.New(at.Add(time.Minute)),
		Wake:           &api.WakePolicy{Mode: api.WakeMode_WAKE_MODE_ON_DATA, MinBytes: 16, Ignore: []string{"10.77.0.1/32"}},
		HibernateAfter: durationpb.New(30 * time.Second),
		Publish:        []*api.Publication{{Protocol: "tcp", HostAddress: "127.0.0.1", HostPort: 6379, Port: 6379}},
		Limits:         &api.Limits{MemoryBytes: 512 << 20, Cpus: 1.5, Pids: 100},
		Rootfs:         "/", Binds: []*api.Bind{{Source: "/srv/data", Destination: "/data", ReadOnly: true}},
		Hostname: "cache", User: "0", Workdir: "/", MemoryBytes: 12 << 20, Processes: 1,
		RestoredFrom: "cache-1", Operation: "snapshot", Error: "wake: no luck", Hint: "try again",
		Notes: []*api.Note{exampleNote()}, AcceptLost: []string{"seal"},
	}
}

func exampleNote() *api.Note {
	return &api.Note{Text: "process 12 (top): it has another start time in /proc after each wake", Remedy: "tell processes apart by their ids"}
}

func heldApp() *api.App {
	a := exampleApp()
	a.Status, a.Pid, a.Processes, a.MemoryBytes, a.HeldSockets = api.Status_STATUS_HELD, 0, 0, 0, 212
	a.Operation, a.Error, a.Hint, a.Notes = "", "", "", nil
	return a
}

// stuckApp is a held app that would not come back.
func stuckApp() *api.App {
	a := heldApp()
	a.AcceptChangedFiles, a.WouldNotStart = true, []*api.Obstacle{{
		Path: "/data/users", Reason: "/data/users (/srv/data/users on the host), descriptor 5 of process 1, it is a directory now", Remedy: "put it back",
	}}
	return a
}

func stoppedApp() *api.App {
	return &api.App{
		Name: "web", Status: api.Status_STATUS_STOPPED, Exit: "exit code 1", Endpoint: "10.77.0.8", Network: "default", Args: []string{"web"},
		CreatedAt: timestamppb.New(at), StatusAt: timestamppb.New(at), Rootfs: "/", Hostname: "web", User: "0", Workdir: "/",
	}
}

func exampleSnapshot() *api.Snapshot {
	return &api.Snapshot{
		Name: "cache-1", App: "cache", CreatedAt: timestamppb.New(at), SizeBytes: 13 << 20, MemoryBytes: 12 << 20, StorageBytes: 1 << 10,
		Endpoint: "10.77.0.7", Network: "default", Args: []string{"redis-server", "--save", ""}, CriuVersion: "4.2.1", Kernel: "6.18.0", Processes: 1,
	}
}

func deltaSnapshot() *api.Snapshot {
	s := exampleSnapshot()
	s.Name, s.App, s.SizeBytes, s.MemoryBytes = "cache-2", "cache-clone", 2<<20, 1<<20
	s.MemorySharedBytes, s.StorageSharedBytes, s.HostFilesSharedBytes = 11<<20, 512, 4<<20
	s.HostFilesBytes, s.AcceptChangedFiles = 1<<19, true
	s.WouldNotStart = []*api.Obstacle{{Reason: "snapshot is damaged: images/core-1.img: missing", Remedy: "it can't be used: take it from a backup, or remove it"}}
	return s
}

func exampleTemplate() *api.Template {
	return &api.Template{
		Name: "web", Snapshot: "web-1", App: "web", CreatedAt: timestamppb.New(at), RulesYaml: "hostname: '{{ .Name }}'\n",
		MemoryBytes: 12 << 20, StorageBytes: 1 << 10, HostFilesBytes: 4 << 20, Network: "default", InsideEndpoint: "10.77.0.7", Args: []string{"web"}, Processes: 1,
		Clones: []string{"web-1", "web-2"}, PoolSize: 5, PoolReady: 2, PoolError: "no memory",
		Parameters: []*api.Parameter{
			{Key: "GREETING", Description: "what it says", DefaultText: "hello from {{ .Name }}", Pattern: "[a-z ]+"},
			{Key: "OWNER", Required: true},
		},
	}
}

func cloneResult() *api.CloneResult {
	return &api.CloneResult{
		Name: "web-1", TotalUs: 12_000, StepsUs: map[string]int64{"restore processes": 9_000}, FromPool: true,
		App: &api.App{
			Name: "web-1", Status: api.Status_STATUS_RUNNING, Endpoint: "10.77.0.20", InsideEndpoint: "10.77.0.7", Network: "default", Args: []string{"web"},
			CreatedAt: timestamppb.New(at), StatusAt: timestamppb.New(at), Rootfs: "/", Hostname: "web-1", User: "0", Workdir: "/", Pid: 4711, Processes: 1,
			MemoryBytes: 1 << 20, Template: "web", Number: 1, Generation: "6f1c0fd2-92b4-4c5e-8a43-6b6f0a4d6f0e", RestoredFrom: "web-1",
		},
		Sockets: []*api.SocketOutcome{{Socket: "tcp 10.77.0.7:80 <- 10.77.0.1:5123", Outcome: "reset", Reason: "the rules say so"}},
	}
}

func exampleInfo(t *testing.T) []byte {
	t.Helper()
	b, err := json.Marshal(inspect.Info{
		Version: 2,
		Processes: []inspect.Process{{
			PID: 1, Comm: "redis-server", State: inspect.ProcessAlive, Threads: []inspect.Thread{{TID: 1, Comm: "redis-server"}},
			Descriptors: []inspect.Descriptor{}, Memory: &inspect.ProcessMemory{MappedBytes: 70 << 20, StoredBytes: 12 << 20, Mappings: []inspect.Mapping{}},
		}},
		Files: []inspect.File{}, Sockets: []inspect.Socket{}, Hosts: []inspect.Host{}, IPC: []inspect.IPC{}, Mounts: []inspect.Mount{},
		Netns: []inspect.Netns{}, Images: []inspect.ImageFile{}, Totals: inspect.Totals{Processes: 1, Threads: 1, StoredBytes: 12 << 20},
	})
	qt.Assert(t, qt.IsNil(err))
	return b
}

func exampleHost() *api.Host {
	return &api.Host{
		Name: "host-a", Self: true, Health: api.HostHealth_HOST_HEALTH_UP, Port: 7077, Version: "1.2.3", Directory: true, Ca: true, Endpoints: 12,
		Addresses: []*api.HostAddress{{Address: "192.0.2.7", Device: "eth1", Priority: 10}, {Address: "2001:db8::7"}},
		Key:       strings.Repeat("0f", 32), JoinedAt: timestamppb.New(at), CertificateUntil: timestamppb.New(at.AddDate(0, 1, 0)), Installation: strings.Repeat("7a", 16),
	}
}

func silentHost() *api.Host {
	return &api.Host{
		Name: "host-b", Health: api.HostHealth_HOST_HEALTH_SILENT, Port: 7077, Addresses: []*api.HostAddress{{Address: "192.0.2.8"}},
		Key: strings.Repeat("f0", 32), Installation: strings.Repeat("7a", 16), Since: timestamppb.New(at),
		Control: &api.HostControl{
			Error: "host host-b can't be reached: 192.0.2.8:7077: connection refused", Remedy: "start snapctld on host-b",
		},
	}
}

// reachedHost is one that there is a channel to.
func reachedHost() *api.Host {
	h := silentHost()
	h.Ways = []*api.HostWay{
		{Address: "192.0.2.7", Device: "eth1", Remote: "192.0.2.8", State: api.WayState_WAY_STATE_DOWN, Loss: 1},
		{Address: "198.51.100.7", Device: "eth2", Remote: "198.51.100.8", State: api.WayState_WAY_STATE_UP, RoundTrip: durationpb.New(420 * time.Microsecond), Loss: 1. / 64, Mtu: 1500, Used: true},
	}
	return h
}

// examples has a document of each kind, with every field set in one of them.
func examples(t *testing.T) map[string]Document {
	t.Helper()
	inspection, err := NewInspection(&api.InspectResponse{Snapshot: exampleSnapshot(), InfoJson: exampleInfo(t)})
	qt.Assert(t, qt.IsNil(err))
	return map[string]Document{
		"ps":        NewAppList([]*api.App{stuckApp(), stoppedApp()}),
		"ps-empty":  NewAppList(nil),
		"show":      NewAppDetail(exampleApp()),
		"run":       NewStarted(&api.App{Name: "cache", Status: api.Status_STATUS_RUNNING, Endpoint: "10.77.0.7", Network: "default", Args: []string{"redis-server"}, Pid: 4711}),
		"snapshots": NewSnapshotList([]*api.Snapshot{exampleSnapshot(), deltaSnapshot()}),
		"inspect":   inspection,
		"ids": NewIDMap("cache", []*api.Id{
			{Kind: "pid", Virtual: "1", Actual: "4711", Detail: "redis-server"},
			{Kind: "address", Virtual: "10.77.0.7", Actual: "network default"},
		}),
		"event": NewEvent(&api.EventRecord{
			Number: 12, At: timestamppb.New(at), Type: "ended", App: "web-1", Template: "web", Operation: "clone", OperationId: 5, WithinId: 3,
			TookUs: 12_000, StepsUs: map[string]int64{"restore processes": 9_000},
		}),
		"vem-table": NewVemTable([]*api.VemRow{{
			App: "cache", Network: "default", Protocol: "tcp", Local: "10.77.0.7:6379", Remote: "10.77.0.1:5123", Actual: "holder 101",
			Inode: 4242, Status: "held", State: "ESTABLISHED", ReceiveQueueBytes: 14, SendQueueBytes: 2, Dropped: 3,
		}, {
			App: "cache", Network: "default", Protocol: "tcp", Local: "10.77.0.7:40000", Remote: "10.77.64.2:5432", Actual: "pid 4711",
			Inode: 4243, Status: "up", State: "ESTABLISHED", Channel: "direct to host-b", Host: "host-a", RemoteApp: "db", RemoteHost: "host-b",
			Module: "direct", Interface: "eth0", UnderlayLocal: "192.0.2.7", UnderlayRemote: "192.0.2.8", Since: timestamppb.New(at), SentBytes: 3072, ReceivedBytes: 2 << 20,
		}}),
		"vem-channels": NewChannelList([]*api.Channel{{
			Network: "default", Host: "host-b", Up: true, Module: "direct", Device: "eth0", Local: "192.0.2.7", Remote: "192.0.2.8", Mtu: 1400,
			Since: timestamppb.New(at), Last: timestamppb.New(at.Add(time.Second)), Sent: &api.Flow{Packets: 12, Bytes: 3072}, Received: &api.Flow{Packets: 9, Bytes: 2 << 20},
			Endpoints: []string{"10.77.64.2"},
		}, {Network: "blue", Host: "host-c", Module: "tunnel", Local: "2001:db8::7", Remote: "2001:db8::9", Mtu: 1400}}),
		"vem-resolve": NewResolved(&api.ResolveResponse{Trouble: "the directory can't be reached", Found: []*api.Resolution{{
			Network: "default", App: "db", Endpoint: "10.77.64.2", Endpoint6: "fd77::4002", Host: "host-b", Epoch: 2, State: "moving", Target: "host-c", Alive: true, Source: "cache", AsOf: timestamppb.New(at),
		}}}),
		"host-ls":   NewHostList(&api.ListHostsResponse{Hosts: []*api.Host{exampleHost(), silentHost()}, Trouble: "the directory can't be reached"}),
		"host-show": NewHostDetail(reachedHost()),
		"host-invite": NewHostInvitation(&api.Invitation{
			Token: "snapctl1-TOKEN", Addresses: []string{"192.0.2.7:7077", "[2001:db8::7]:7077"}, ExpiresAt: timestamppb.New(at.Add(time.Hour)),
		}),
		"doctor": NewDiagnosis([]Check{
			{Name: "snapctld", Status: "ok", Found: "version 1.2.3, pid 100, at /run/snapctl/snapctl.sock"},
			{Name: "criu", Status: CheckFailed, Found: "3.17.1", Remedy: "install CRIU 4.2 or newer"},
		}),
		"version": NewVersion(Build{Version: "1.2.3", GoVersion: "go1.26.0"}, &api.VersionResponse{
			Version: "1.2.3", GoVersion: "go1.26.0", CriuVersion: "4.2.1", CriuPath: "/usr/sbin/criu", Kernel: "6.18.0",
			StateDir: "/var/lib/snapctl", RunDir: "/run/snapctl", Cgroup: "/snapctl", HolderPid: 101, Pid: 100,
		}),
		"version-alone": NewVersion(Build{Version: "1.2.3", GoVersion: "go1.26.0"}, nil),
		"hibernate": NewResults(
			[]Result{NewResult(Hibernate, "cache", &api.Result{
				App: heldApp(), FrozenUs: 64_200, TotalUs: 91_000, StepsUs: map[string]int64{"freeze": 1_200, "save memory": 60_000},
				Notes: []*api.Note{exampleNote()},
			})},
			[]Failure{NewFailure("nobody", 4, errors.New("app nobody: not found"))},
		),
		"snapshot": NewResults([]Result{NewResult(TakeSnapshot, "cache", &api.Result{Snapshot: exampleSnapshot(), FrozenUs: 40_000, TotalUs: 70_000})}, nil),
		"restore": NewResults([]Result{NewResult(Restore, "cache-1", &api.Result{
			App: stoppedApp(), TotalUs: 120_000,
			Sockets: []*api.SocketOutcome{{Socket: "tcp 10.77.0.7:6379 <- 10.77.0.1:5123", Outcome: "reset", Reason: "it belongs to app cache"}},
		})}, nil),
		"template-ls":       NewTemplateList([]*api.Template{exampleTemplate()}),
		"template-show":     NewTemplateDetail(exampleTemplate()),
		"template-pool":     NewPoolChange(exampleTemplate()),
		"template-create":   NewResults([]Result{NewResult(CreateTemplate, "web", &api.Result{Template: exampleTemplate(), FrozenUs: 40_000, TotalUs: 70_000})}, nil),
		"template-validate": NewRulesCheck("web.yaml", template.RuleErrors{{Line: 3, Column: 11, Path: "files[0].mode", Text: "\"640\": want octal digits such as 0640 or 04755"}}),
		"clone":             NewClones("web", 30*time.Millisecond, []Result{NewClone(cloneResult())}, []Failure{NewFailure("web-2", 1, errors.New("web-2: no memory"))}),
		"rm":                NewResults([]Result{NewResult(Remove, "cache", &api.Result{})}, nil),
	}
}

func TestGolden(t *testing.T) {
	for name, doc := range examples(t) {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			qt.Assert(t, qt.IsNil(Write(&b, AsJSON, at, doc)))
			file := filepath.Join("testdata", name+".json")
			if *update {
				qt.Assert(t, qt.IsNil(os.WriteFile(file, b.Bytes(), 0o644)))
			}
			want, err := os.ReadFile(file)
			qt.Assert(t, qt.IsNil(err))
			qt.Assert(t, qt.Equals(b.String(), string(want)))

			version := struct {
				Version int `json:"schema_version"`
			}{}
			qt.Assert(t, qt.IsNil(json.Unmarshal(b.Bytes(), &version)))
			qt.Check(t, qt.Equals(version.Version, SchemaVersion))
			qt.Check(t, qt.IsFalse(strings.Contains(b.String(), "null")), qt.Commentf("null is no array"))
		})
	}
}

// example is an example in the promise: its file's name, and its text.
var example = regexp.MustCompile("(?s)<!-- example: ([a-z-]+) -->\n```json\n(.*?)```\n")

func TestExamplesInPromise(t *testing.T) {
	text, err := os.ReadFile(promise)
	qt.Assert(t, qt.IsNil(err))
	if *update {
		text = example.ReplaceAllFunc(text, func(old []byte) []byte {
			name := string(example.FindSubmatch(old)[1])
			golden, err := os.ReadFile(filepath.Join("testdata", name+".json"))
			qt.Assert(t, qt.IsNil(err))
			return fmt.Appendf(nil, "<!-- example: %s -->\n```json\n%s```\n", name, golden)
		})
		qt.Assert(t, qt.IsNil(os.WriteFile(promise, text, 0o644)))
	}
	found := example.FindAllSubmatch(text, -1)
	qt.Assert(t, qt.IsTrue(len(found) > 0))
	for _, m := range found {
		golden, err := os.ReadFile(filepath.Join("testdata", string(m[1])+".json"))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(string(m[2]), string(golden)))
	}
}

// Every field is promised: in a row of its own, or in the row of the object that
// it is a field of.
func TestFieldsInPromise(t *testing.T) {
	text, err := os.ReadFile(promise)
	qt.Assert(t, qt.IsNil(err))
	for section, typ := range map[string]reflect.Type{
		"App":                      reflect.TypeFor[App](),
		"Snapshot":                 reflect.TypeFor[Snapshot](),
		"Result":                   reflect.TypeFor[Result](),
		"Failure":                  reflect.TypeFor[Failure](),
		"Template":                 reflect.TypeFor[Template](),
		"template ls":              reflect.TypeFor[TemplateList](),
		"template show and pool":   reflect.TypeFor[TemplateDetail](),
		"template validate":        reflect.TypeFor[RulesCheck](),
		"clone":                    reflect.TypeFor[Clones](),
		"ps":                       reflect.TypeFor[AppList](),
		"show and run":             reflect.TypeFor[AppDetail](),
		"snapshots":                reflect.TypeFor[SnapshotList](),
		"Operations":               reflect.TypeFor[Results](),
		"inspect":                  reflect.TypeFor[Inspection](),
		"The image":                reflect.TypeFor[inspect.Info](),
		"ids":                      reflect.TypeFor[IDMap](),
		"events":                   reflect.TypeFor[Event](),
		"vem table":                reflect.TypeFor[VemTable](),
		"vem channels and down":    reflect.TypeFor[ChannelList](),
		"vem resolve":              reflect.TypeFor[Resolved](),
		"Host":                     reflect.TypeFor[Host](),
		"host ls":                  reflect.TypeFor[HostList](),
		"host show, init and join": reflect.TypeFor[HostDetail](),
		"host invite":              reflect.TypeFor[HostInvitation](),
		"doctor":                   reflect.TypeFor[Diagnosis](),
		"version":                  reflect.TypeFor[Version](),
	} {
		t.Run(section, func(t *testing.T) {
			_, body, ok := strings.Cut(string(text), "\n## "+section+"\n")
			qt.Assert(t, qt.IsTrue(ok), qt.Commentf("no such section"))
			body, _, _ = strings.Cut(body, "\n## ")
			for _, f := range fields(typ) {
				inParent := false
				if parent, name, ok := cutLast(f); ok {
					inParent = regexp.MustCompile("(?m)^\\| `" + regexp.QuoteMeta(parent) + "(\\[\\])?` \\|.*`" + name + "`").MatchString(body)
				}
				if !inParent && !strings.Contains(body, "\n| `"+f+"` |") {
					t.Errorf("%s is not documented", f)
				}
			}
		})
	}
}

func cutLast(path string) (parent, name string, ok bool) {
	i := strings.LastIndexByte(path, '.')
	if i < 0 {
		return "", path, false
	}
	return strings.TrimSuffix(path[:i], "[]"), strings.TrimSuffix(path[i+1:], "[]"), true
}

// shared are types with a section of their own.
func shared(t reflect.Type) bool {
	return t == reflect.TypeFor[App]() || t == reflect.TypeFor[Snapshot]() || t == reflect.TypeFor[Result]() || t == reflect.TypeFor[Failure]() || t == reflect.TypeFor[Template]() || t == reflect.TypeFor[Host]()
}

// fields lists the fields of a type's JSON, as paths: "publish[].port".
func fields(t reflect.Type) []string {
	var all []string
	for f := range t.Fields() {
		if !f.IsExported() {
			continue
		}
		if f.Anonymous {
			all = append(all, fields(f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		typ := f.Type
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice && typ != reflect.TypeFor[json.RawMessage]() {
			if typ.Kind() == reflect.Slice {
				name += "[]"
			}
			typ = typ.Elem()
		}
		all = append(all, name)
		if typ.Kind() == reflect.Struct && !shared(typ) && typ.PkgPath() != "time" && typ.PkgPath() != "net/netip" {
			for _, sub := range fields(typ) {
				all = append(all, name+"."+sub)
			}
		}
	}
	return all
}
