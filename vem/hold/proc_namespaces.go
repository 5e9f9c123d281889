package hold

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

// namespaces remembers the namespaces of each process of an app.
type namespaces struct {
	links map[int][]string // by process, as singleNamespaces
	top   int              // the app's first process
	depth int              // of its pid namespace in those of the host
}

// see looks at a process.
func (n *namespaces) see(pid int, st status) {
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

// root is the app's first process, of those that were seen: 0 if the app has no namespaces
// of its own.
func (n *namespaces) root() int { return n.top }

// stranger is a process that has another namespace than the app's first process.
type stranger struct {
	pid  int
	kind string // "net"
}

// strangers lists the processes with a namespace of their own that CRIU can't restore.
func (n *namespaces) strangers(pids []int) []stranger {
	own, ok := n.links[n.top]
	if !ok {
		return nil // no app with namespaces of its own
	}
	var out []stranger
	for _, pid := range pids {
		for i, link := range n.links[pid] {
			if link != own[i] {
				out = append(out, stranger{pid: pid, kind: singleNamespaces()[i]})
				break
			}
		}
	}
	return out
}
