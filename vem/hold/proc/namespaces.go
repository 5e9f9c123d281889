package proc

import (
	"fmt"
	"os"
)

// singleNamespaces are those that an app has one of: CRIU saves no second one
// (namespaces.c, get_ns_id: "Can't dump nested pid namespace"), or saves it and
// can't restore it (pstree.c: "Can't restore sub-task in NS", of a second network
// namespace beside an external one). Mount namespaces may be several.
func singleNamespaces() []string {
	return []string{"pid", "net", "user", "ipc", "uts", "time", "cgroup"}
}

// Namespaces remembers the namespaces of each process of an app. The zero value is ready for use.
type Namespaces struct {
	links map[int][]string // by process, as singleNamespaces
	top   int              // the app's first process
	depth int              // of its pid namespace in those of the host
}

// See looks at the namespaces of a process, with what [ReadStatus] tells of it.
func (n *Namespaces) See(pid int, st Status) {
	if n.links == nil {
		n.links = make(map[int][]string)
	}
	var links []string
	for _, name := range singleNamespaces() {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			return // it has ended, or the kernel has none of these
		}
		links = append(links, link)
	}
	n.links[pid] = links
	if st.first() && (n.top == 0 || len(st.pids) < n.depth) {
		n.top, n.depth = pid, len(st.pids)
	}
}

// Root is the app's first process, of those that were seen: 0 if the app has no namespaces
// of its own.
func (n *Namespaces) Root() int { return n.top }

// Stranger is a process that has another namespace than the app's first process.
type Stranger struct {
	Pid  int
	Kind string // "net"
}

// Strangers lists the processes with a namespace of their own that CRIU can't restore.
func (n *Namespaces) Strangers(pids []int) []Stranger {
	own, ok := n.links[n.top]
	if !ok {
		return nil // no app with namespaces of its own
	}
	var out []Stranger
	for _, pid := range pids {
		for i, link := range n.links[pid] {
			if link != own[i] {
				out = append(out, Stranger{Pid: pid, Kind: singleNamespaces()[i]})
				break
			}
		}
	}
	return out
}
