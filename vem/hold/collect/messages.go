package collect

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/proc"
)

// CRIU saves the messages that wait in a unix socket whose other end is in the app, too,
// but without the addresses of their senders, and none from the first empty one on
// (sk-queue.c, dump_sk_queue). So such a socket is held while messages wait in it, and
// with it the sockets that are connected to it, since a restore can't connect a new
// socket to a held one. CRIU is not told: it saves them as ever, for a restore without
// the hold.

// markMessages picks the sockets that are held for the sake of the messages in them, or
// in one that they are connected to.
func (s *scanner) markMessages(nodes map[uint64]unixNode, outside map[uint64]bool) error {
	neighbours := make(map[uint64][]uint64, len(nodes))
	for inode, n := range nodes {
		if _, inside := nodes[n.peer]; inside {
			neighbours[inode] = append(neighbours[inode], n.peer)
			neighbours[n.peer] = append(neighbours[n.peer], inode)
		}
	}
	judged := make(map[uint64]bool)
	for _, inode := range s.order {
		if _, ok := nodes[inode]; !ok || judged[inode] || outside[inode] || !s.sockets[inode].details.messages {
			continue
		}
		group := reachable(inode, neighbours)
		good := true
		for _, member := range group {
			judged[member] = true
			lasts, err := s.sockets[member].lasts(&s.objects.devices)
			if err != nil {
				return err
			}
			good = good && lasts
		}
		for _, member := range group {
			s.sockets[member].awaited = good
		}
	}
	return nil
}

// reachable lists the sockets that are connected to one, and to those, and so on, and the
// one itself.
func reachable(from uint64, neighbours map[uint64][]uint64) []uint64 {
	group := []uint64{from}
	for i := 0; i < len(group); i++ {
		for _, next := range neighbours[group[i]] {
			if !slices.Contains(group, next) {
				group = append(group, next)
			}
		}
	}
	return group
}

// lasts tells whether a unix socket is worth as much after the wake as before if it is
// held. An open file in its queue would be another one than that which the processes get
// from CRIU, and the file that it is bound to must be there again.
func (f *found) lasts(d *proc.Devices) (bool, error) {
	if f.details.facts.Listening {
		return false, nil
	}
	info, err := proc.FDInfo(f.owners[0].PID, f.owners[0].FD)
	if err != nil {
		return false, proc.Gone(f.owners[0].PID, err)
	}
	// Linux 5.9 (net/unix/af_unix.c, unix_show_fdinfo).
	if n, err := strconv.Atoi(info["scm_fds"]); err != nil || n > 0 {
		return false, nil // or the kernel does not tell
	}
	file, err := unix.IoctlRetInt(f.fd, siocunixfile)
	if errors.Is(err, unix.ENOENT) {
		return true, nil // it has no file
	}
	if err != nil {
		return false, fmt.Errorf("find file of unix socket %q: %w", f.details.path, err)
	}
	defer unix.Close(file) //nolint:errcheck // a handle
	var st unix.Stat_t
	if err := unix.Fstat(file, &st); err != nil {
		return false, fmt.Errorf("find file of unix socket %q: %w", f.details.path, err)
	}
	return d.Mounted(st.Dev)
}
