package snapctl

import (
	"slices"
	"strings"
	"testing"
)

// room is a package under runtime/ or vem/, with all packages of the module
// that it may import: a package, or everything from a folder down ("snapshot/...").
type room struct {
	pkg string
	may []string
}

// rooms are listed from the top down: a row names only packages of rows below
// it. So no import points upward, and there is no circle.
//
// A new package gets a row, above all that it imports and below all that
// import it. A row is as tight as it can be: it names nothing that the package
// does not import.
var rooms = []room{
	{"runtime/daemon", []string{
		"runtime/app", "runtime/birth", "runtime/cargo", "runtime/catalog", "runtime/cgroup", "runtime/checkpoint", "runtime/clone", "runtime/courier", "runtime/doctor", "runtime/elsewhere", "runtime/engine", "runtime/event", "runtime/fault", "runtime/journal", "runtime/line", "runtime/metrics", "runtime/move", "runtime/move/drain", "runtime/restorable", "runtime/sandbox", "runtime/server", "runtime/server/afar", "runtime/sleeper", "runtime/storage", "runtime/task",
		"snapshot", "snapshot/ahead", "snapshot/criu", "snapshot/memory", "snapshot/store", "vem", "vem/address", "vem/channel/wireguard", "vem/control", "vem/control/message", "vem/directory", "vem/fabric", "vem/gateway", "vem/installation", "vem/membership", "vem/mesh",
	}},
	{"runtime/server/afar", []string{"runtime/api", "runtime/cargo", "runtime/courier", "runtime/server/transfers", "template"}},
	{"runtime/server", []string{
		"runtime/api", "runtime/app", "runtime/birth", "runtime/catalog", "runtime/checkpoint", "runtime/clone", "runtime/doctor", "runtime/engine", "runtime/event", "runtime/move", "runtime/restorable", "runtime/sandbox", "runtime/server/beyond", "runtime/server/facts", "runtime/server/members", "runtime/server/moves", "runtime/server/program", "runtime/server/transfers", "runtime/server/upkeep", "runtime/server/ways", "runtime/source",
		"template", "restore", "snapshot", "snapshot/criu", "snapshot/image/inspect", "snapshot/memory", "snapshot/preflight", "snapshot/store", "snapshot/tree",
		"vem", "vem/directory/conflict", "vem/hold", "vem/hold/sockdiag", "vem/holder", "vem/membership", "vem/mesh", "vem/netns", "vem/ownership", "vem/pause", "vem/table", "vem/wake",
	}},
	{"runtime/server/beyond", []string{"runtime/api", "vem/gateway"}},
	{"runtime/server/facts", []string{"runtime/api"}},
	{"runtime/server/moves", []string{"runtime/api", "runtime/app", "runtime/engine", "runtime/event", "runtime/move", "runtime/move/drain", "runtime/server/members", "vem/control/message", "vem/membership"}},
	{"runtime/server/members", []string{"runtime/api", "vem/directory/conflict", "vem/membership"}},
	{"runtime/server/program", []string{"runtime/api"}},
	{"runtime/server/transfers", []string{"runtime/api", "runtime/cargo", "runtime/courier", "snapshot/memory", "snapshot/tree", "vem/control", "vem/control/message"}},
	{"runtime/server/upkeep", []string{"runtime/api", "vem/directory", "vem/directory/member"}},
	{"runtime/server/ways", []string{"runtime/api", "vem/mesh", "vem/netns", "vem/overview", "vem/probe", "vem/table"}},
	{"runtime/move/drain", []string{"runtime/app", "runtime/engine", "runtime/event", "runtime/move", "runtime/sandbox", "vem/control", "vem/control/message", "vem/membership"}},
	{"runtime/elsewhere", []string{"runtime/app", "runtime/engine", "runtime/event", "runtime/move"}},
	{"runtime/move", []string{
		"runtime/app", "runtime/cargo", "runtime/checkpoint", "runtime/checkpoint/netstate", "runtime/compat", "runtime/engine", "runtime/event", "runtime/journal", "runtime/restorable", "runtime/source", "runtime/storage",
		"snapshot", "snapshot/layer", "snapshot/preflight", "snapshot/tree",
		"vem/control/message", "vem/directory", "vem/handover", "vem/hold", "vem/membership", "vem/netns", "vem/ownership", "vem/pause",
	}},
	{"runtime/clone", []string{
		"runtime/app", "runtime/birth", "runtime/catalog", "runtime/engine", "runtime/event", "runtime/journal", "runtime/source",
		"template", "snapshot", "snapshot/store",
	}},
	{"runtime/birth", []string{
		"runtime/app", "runtime/checkpoint", "runtime/engine", "runtime/event", "runtime/journal", "runtime/process", "runtime/sandbox", "runtime/source", "runtime/storage",
		"template", "restore", "snapshot", "snapshot/image/openfile", "snapshot/layer", "snapshot/store", "vem", "vem/directory", "vem/netns",
	}},
	{"runtime/engine/enginetest", []string{
		"runtime/app", "runtime/cgroup", "runtime/checkpoint", "runtime/engine", "runtime/event", "runtime/fault", "runtime/journal", "runtime/process", "runtime/restorable", "runtime/sandbox", "runtime/storage", "runtime/task",
		"snapshot", "snapshot/alarm", "snapshot/freezer", "snapshot/store", "vem", "vem/address", "vem/hold", "vem/hold/collect", "vem/holder", "vem/netns", "vem/wake",
	}},
	{"runtime/sleeper", []string{
		"runtime/app", "runtime/calloff", "runtime/checkpoint", "runtime/engine", "runtime/event", "runtime/task",
		"snapshot/alarm", "vem/fabric", "vem/hold/collect", "vem/hold/vet", "vem/idle", "vem/netns", "vem/pause", "vem/wake",
	}},
	{"runtime/engine", []string{
		"runtime/app", "runtime/calloff", "runtime/cgroup", "runtime/checkpoint", "runtime/checkpoint/netstate", "runtime/engine/taken", "runtime/engine/wakers", "runtime/event", "runtime/journal", "runtime/process", "runtime/restorable", "runtime/sandbox", "runtime/storage", "runtime/task",
		"template", "restore", "snapshot", "snapshot/alarm", "snapshot/freezer", "snapshot/hostfile", "snapshot/layer", "snapshot/memory", "snapshot/preflight", "snapshot/store",
		"vem", "vem/fabric", "vem/hold", "vem/hold/vet", "vem/netns", "vem/sockopt",
	}},
	{"runtime/engine/taken", []string{"vem"}},
	{"runtime/engine/wakers", []string{"runtime/app", "snapshot/alarm", "vem/hold", "vem/wake"}},
	{"runtime/restorable", []string{
		"runtime/app", "runtime/checkpoint", "runtime/source",
		"template", "restore", "snapshot", "snapshot/image/openfile", "snapshot/layer", "snapshot/preflight", "snapshot/store",
	}},
	{"runtime/source", []string{
		"runtime/app", "runtime/checkpoint/netstate", "snapshot", "snapshot/image/inspect", "snapshot/store", "template", "vem/sockopt", "vem/tcprepair",
	}},
	{"runtime/calloff", nil},
	{"runtime/task", nil},
	{"runtime/checkpoint", []string{
		"runtime/cgroup", "runtime/checkpoint/early", "runtime/checkpoint/mapped", "runtime/checkpoint/netstate", "runtime/checkpoint/veil", "runtime/process", "runtime/sandbox",
		"restore", "snapshot/...", "vem/copies", "vem/hold", "vem/hold/collect", "vem/hold/fsnotify", "vem/hold/mqueue", "vem/hold/proc", "vem/hold/vet", "vem/netconf", "vem/netns", "vem/sockopt", "vem/tcprepair",
	}},
	{"runtime/checkpoint/netstate", []string{
		"restore", "snapshot", "snapshot/tree", "vem/copies", "vem/hold", "vem/hold/collect", "vem/netconf", "vem/netns", "vem/sockopt", "vem/tcprepair",
	}},
	{"runtime/checkpoint/early", []string{
		"runtime/process", "snapshot", "snapshot/ahead", "snapshot/criu/omit", "snapshot/freezer", "snapshot/image", "snapshot/image/memmap", "snapshot/image/wire", "snapshot/memory", "vem/hold/proc",
	}},
	{"runtime/checkpoint/mapped", []string{"snapshot/memory"}},
	{"runtime/checkpoint/veil", []string{"snapshot/criu/apart", "snapshot/image", "snapshot/image/absent", "vem/hold", "vem/hold/proc", "vem/hold/sockdiag"}},
	{"runtime/doctor", []string{"runtime/cgroup", "runtime/sandbox", "snapshot/ahead", "snapshot/criu", "vem/netns"}},
	{"runtime/app", []string{
		"runtime/journal", "runtime/process", "template", "restore", "vem/wake",
		"snapshot", "snapshot/alarm", "snapshot/criu", "snapshot/hostfile", "snapshot/layer", "snapshot/memory", "snapshot/preflight",
	}},
	{"runtime/courier", []string{"runtime/cargo", "runtime/catalog", "runtime/compat", "runtime/event", "runtime/journal", "snapshot", "snapshot/store", "vem/control", "vem/control/message"}},
	{"runtime/line", []string{"vem/control/message"}},
	{"runtime/compat", []string{"snapshot"}},
	{"runtime/cargo", []string{"runtime/fault", "snapshot", "snapshot/hostfile", "snapshot/layer", "snapshot/memory", "snapshot/tree", "vem/control/message"}},
	{"runtime/catalog", []string{"runtime/journal", "template", "snapshot", "snapshot/image/inspect", "snapshot/store"}},
	{"runtime/journal/journaltest", nil},
	{"runtime/journal", []string{"runtime/event", "runtime/fault"}},
	{"runtime/storage", []string{"runtime/sandbox", "snapshot", "snapshot/hostfile", "snapshot/layer", "snapshot/memory", "snapshot/relink"}},
	{"runtime/sandbox", []string{"runtime/cgroup", "runtime/process", "vem/netns"}},
	{"runtime/process", nil},
	{"runtime/cgroup", nil},
	{"runtime/metrics", []string{"runtime/event"}},
	{"runtime/event", nil},
	{"runtime/fault", nil},
	{"runtime/client", []string{"runtime/api"}},
	{"runtime/api", nil},

	{"vem", []string{"vem/address", "vem/fabric", "vem/hold", "vem/holder", "vem/netns", "vem/pause", "vem/wake"}},
	{"vem/installation", []string{
		"vem/channel/wireguard", "vem/control", "vem/control/message", "vem/devices", "vem/directory", "vem/directory/cache", "vem/directory/conflict",
		"vem/fabric", "vem/gateway", "vem/installation/choice", "vem/installation/errand", "vem/installation/relocate", "vem/membership", "vem/membership/wire", "vem/mesh", "vem/overview", "vem/overview/resolve", "vem/ownership", "vem/pause", "vem/peering", "vem/probe", "vem/registrar", "vem/slowpath", "vem/trust", "vem/upkeep",
	}},
	{"vem/registrar", []string{
		"vem/directory", "vem/directory/cache", "vem/gateway", "vem/membership", "vem/mesh", "vem/overview", "vem/ownership", "vem/pause", "vem/peering", "vem/slowpath",
	}},
	{"vem/upkeep", []string{
		"vem/control", "vem/directory", "vem/directory/etcd", "vem/directory/lazy", "vem/directory/member", "vem/membership", "vem/membership/wire", "vem/pause", "vem/trust",
	}},
	{"vem/installation/choice", []string{"vem/channel"}},
	{"vem/installation/errand", nil},
	{"vem/installation/relocate", []string{"vem/devices", "vem/directory/cache", "vem/membership", "vem/pause", "vem/peering"}},
	{"vem/devices", []string{"vem/membership", "vem/mesh", "vem/netlist", "vem/pause"}},
	{"vem/overview/resolve", []string{"vem/address", "vem/directory", "vem/directory/cache", "vem/membership", "vem/overview"}},
	{"vem/overview", []string{"vem/netlist", "vem/pause"}},
	{"vem/mesh", []string{"vem/channel", "vem/channel/redirect", "vem/channel/vxlan", "vem/channel/wireguard", "vem/control", "vem/control/message", "vem/fabric", "vem/fabric/fastpath", "vem/gateway", "vem/pause", "vem/peering", "vem/probe", "vem/slowpath"}},
	{"vem/probe", []string{"vem/netns", "vem/pause"}},
	{"vem/gateway", []string{"vem/address", "vem/directory", "vem/hold/sockdiag"}},
	{"vem/peering", []string{"vem/channel", "vem/control", "vem/control/message", "vem/pause", "vem/peering/rule", "vem/slowpath"}},
	{"vem/peering/rule", []string{"vem/channel", "vem/control/message"}},
	{"vem/membership/wire", []string{"vem/control", "vem/control/message", "vem/membership", "vem/trust"}},
	{"vem/membership", []string{"vem/directory", "vem/pause", "vem/trust"}},
	{"vem/ownership", []string{"vem/directory"}},
	{"vem/directory/lazy", []string{"vem/directory"}},
	{"vem/directory/cache", []string{"vem/directory"}},
	{"vem/directory/conflict", []string{"vem/directory"}},
	{"vem/directory/directorytest", []string{"vem/directory"}},
	{"vem/directory/memory", []string{"vem/directory"}},
	{"vem/directory/guard", []string{"vem/control/limit", "vem/directory", "vem/pause", "vem/trust"}},
	{"vem/directory/member", []string{"vem/directory", "vem/directory/etcd", "vem/pause"}},
	{"vem/directory/etcd", []string{"vem/directory", "vem/pause"}},
	{"vem/control", []string{"vem/control/batch", "vem/control/controlpb", "vem/control/limit", "vem/control/message", "vem/control/once"}},
	{"vem/control/batch", nil},
	{"vem/control/message", []string{"vem/control/controlpb", "vem/control/limit", "vem/control/once"}},
	{"vem/control/controlpb", nil},
	{"vem/control/limit", nil},
	{"vem/control/once", nil},
	{"vem/directory", []string{"vem/address", "vem/directory/codec", "vem/directory/plan"}},
	{"vem/directory/plan", []string{"vem/address", "vem/directory/codec"}},
	{"vem/directory/codec", nil},
	{"vem/trust", nil},
	{"vem/handover", []string{"vem/handover/backlog", "vem/handover/forge", "vem/handover/plain", "vem/hold", "vem/hold/proc", "vem/hold/sockdiag", "vem/netns", "vem/pause", "vem/tcprepair"}},
	{"vem/handover/backlog", []string{"vem/fabric/tcx", "vem/handover/forge", "vem/netlist", "vem/netns", "vem/tcprepair"}},
	{"vem/handover/plain", []string{"vem/handover/forge", "vem/sockopt"}},
	{"vem/handover/forge", []string{"vem/netlist"}},
	{"vem/copies", []string{"vem/hold", "vem/hold/collect", "vem/hold/proc", "vem/hold/sockdiag", "vem/netconf", "vem/sockopt", "vem/tcprepair"}},
	{"vem/idle", []string{"vem/hold/sockdiag", "vem/payload", "vem/wake"}},
	{"vem/wake", []string{"vem/hold", "vem/hold/proc", "vem/hold/sockdiag", "vem/payload"}},
	{"vem/hold/vet", []string{"vem/hold", "vem/hold/collect", "vem/hold/fsnotify", "vem/hold/mqueue", "vem/hold/proc"}},
	{"vem/hold/collect", []string{"vem/hold", "vem/hold/fsnotify", "vem/hold/mqueue", "vem/hold/proc", "vem/hold/sockdiag", "vem/netns"}},
	{"vem/hold/mqueue", []string{"vem/hold", "vem/hold/proc"}},
	{"vem/hold", []string{"vem/hold/fsnotify", "vem/hold/proc", "vem/hold/sockdiag", "vem/holder"}},
	{"vem/hold/fsnotify", []string{"vem/hold/proc"}},
	{"vem/hold/proc", nil},
	{"vem/table", []string{"vem/hold/sockdiag", "vem/netns"}},
	{"vem/hold/sockdiag", nil},
	{"vem/holder", []string{"vem/pause"}},
	{"vem/channel/channeltest", []string{"vem/channel"}},
	{"vem/channel/memory", []string{"vem/channel"}},
	{"vem/channel/wireguard", []string{"vem/channel", "vem/channel/guard", "vem/channel/routes", "vem/channel/vxlan", "vem/fabric", "vem/fabric/rule", "vem/netns", "vem/pause"}},
	{"vem/channel/vxlan", []string{"vem/channel", "vem/channel/guard", "vem/channel/routes", "vem/fabric", "vem/fabric/rule", "vem/netns"}},
	{"vem/channel/wireguard/userspace", nil},
	{"vem/channel/guard", []string{"vem/channel", "vem/fabric", "vem/fabric/rule", "vem/netlist", "vem/netns"}},
	{"vem/channel/routes", []string{"vem/channel", "vem/fabric", "vem/netlist", "vem/netns"}},
	{"vem/channel/redirect", []string{"vem/channel", "vem/fabric/fastpath", "vem/fabric/fastpath/bpfmap", "vem/fabric/tcx", "vem/netlist", "vem/netns"}},
	{"vem/channel", nil},
	{"vem/slowpath", []string{"vem/fabric", "vem/netlist", "vem/netns", "vem/pause"}},
	{"vem/fabric", []string{"vem/address", "vem/fabric/fastpath", "vem/fabric/forwarding", "vem/fabric/local", "vem/fabric/outward", "vem/fabric/rule", "vem/fabric/tcx", "vem/netconf", "vem/netlist", "vem/netns"}},
	{"vem/fabric/forwarding", []string{"vem/netns"}},
	{"vem/fabric/local", []string{"vem/netns"}},
	{"vem/fabric/outward", []string{"vem/fabric/fastpath", "vem/fabric/rule", "vem/netlist", "vem/netns"}},
	{"vem/fabric/rule", nil},
	{"vem/fabric/fastpath", []string{"vem/fabric/fastpath/bpfmap", "vem/fabric/fastpath/packet", "vem/fabric/tcx"}},
	{"vem/fabric/fastpath/bpfmap", nil},
	{"vem/fabric/fastpath/packet", nil},
	{"vem/fabric/tcx", []string{"vem/netlist"}},
	{"vem/address", nil},
	{"vem/netconf", []string{"vem/netlist", "vem/netns"}},
	{"vem/tcprepair", []string{"vem/sockopt"}},
	{"vem/sockopt", []string{"vem/netlist"}},
	{"vem/payload", nil},
	{"vem/pause", nil},
	{"vem/netlist", nil},
	{"vem/netns", nil},
}

// covers tells whether an entry of a row allows to import the package pkg.
func covers(entry, pkg string) bool {
	dir, all := strings.CutSuffix(entry, "/...")
	return pkg == dir || all && strings.HasPrefix(pkg, dir+"/")
}

// listed tells whether the package pkg has a row in rooms.
func listed(pkg string) bool {
	top, _, _ := strings.Cut(pkg, "/")
	return top == "runtime" || top == "vem"
}

// packages reads which packages the module has, and which of them each imports.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	found := make(map[string][]string)
	eachFile(t, func(dir string, imports []string, _ bool) {
		if _, ok := found[dir]; !ok {
			found[dir] = nil
		}
		for _, imp := range imports {
			if to, ours := strings.CutPrefix(imp, module+"/"); ours && !slices.Contains(found[dir], to) {
				found[dir] = append(found[dir], to)
			}
		}
	})
	return found
}

func TestRoomsImportAsTheirRowsSay(t *testing.T) {
	found := packages(t)
	for pkg, imports := range found {
		if !listed(pkg) {
			continue
		}
		at := slices.IndexFunc(rooms, func(r room) bool { return r.pkg == pkg })
		if at < 0 {
			t.Errorf("%s has no row in rooms (rooms_test.go). Add {%q, []string{...}} with what it imports, above the rows of these packages and below the rows of those that import it.", pkg, pkg)
			continue
		}
		for _, imp := range imports {
			if !slices.ContainsFunc(rooms[at].may, func(entry string) bool { return covers(entry, imp) }) {
				t.Errorf("%s must not import %s. If the import points down and is meant, add it to the row of %[1]s in rooms (rooms_test.go); if it points upward, hand in a value, a function or an interface instead.", pkg, imp)
			}
		}
	}
}

func TestRoomsAreTight(t *testing.T) {
	found := packages(t)
	for _, r := range rooms {
		imports, ok := found[r.pkg]
		if !ok {
			t.Errorf("There is no package %s: take its row out of rooms (rooms_test.go).", r.pkg)
			continue
		}
		for _, entry := range r.may {
			if !slices.ContainsFunc(imports, func(imp string) bool { return covers(entry, imp) }) {
				t.Errorf("%s does not import %s: take it out of its row in rooms (rooms_test.go).", r.pkg, entry)
			}
		}
	}
}

// Rows that name only what is below them allow no circle.
func TestRoomsPointDown(t *testing.T) {
	for i, r := range rooms {
		for _, above := range rooms[:i] {
			if above.pkg == r.pkg {
				t.Errorf("%s has two rows in rooms (rooms_test.go): keep one.", r.pkg)
			}
		}
		for _, entry := range r.may {
			if slices.ContainsFunc(rooms[:i], func(above room) bool { return covers(entry, above.pkg) }) {
				t.Errorf("%s may import %s, whose row is not below its own (rooms_test.go). Move the row of %[1]s up; if that can't be done, the two import each other: hand in a value, a function or an interface instead.", r.pkg, entry)
			}
		}
	}
}
