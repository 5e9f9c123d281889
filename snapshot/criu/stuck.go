package criu

import (
	"bytes"
	"fmt"
	"os"
	"time"
)

// stuckAfter is how long CRIU may take for what else takes it milliseconds, before
// somebody looks whether it waits for ever.
const stuckAfter = 10 * time.Second

// endIfStuck ends CRIU if it waits in vain for tasks that it has killed. When it
// fails between its post-restore notification and the tasks' running, it kills the
// root task and waits for it; but if that has threads and is process 1 of a pid
// namespace, the namespace waits in turn for those threads, which CRIU traces, to
// be waited for by CRIU (kernel/pid_namespace.c, zap_pid_ns_processes).
//
// It looks again and again until CRIU has ended.
func (s *session) endIfStuck(root int) {
	go func() { // ends with CRIU, which close waits for
		for {
			t := time.NewTimer(stuckAfter)
			select {
			case <-s.ended:
				t.Stop()
				return
			case <-t.C:
				if zombie(root) {
					s.kill()
					return
				}
			}
		}
	}()
}

// zombie tells whether a process has ended and is still there.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// The state follows the name, in parentheses, which may hold anything.
	return err == nil && bytes.HasPrefix(b[bytes.LastIndexByte(b, ')')+1:], []byte(" Z"))
}
