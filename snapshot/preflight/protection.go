package preflight

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Protection is something that a program has asked the kernel for to be safer, and that
// CRIU does not bring back: the program would believe that it has it.
type Protection string

// The protections that can be seen from outside. Others can't be: see SECURITY.md.
const (
	// Speculation is that speculative execution is held back, by
	// PR_SET_SPECULATION_CTRL.
	Speculation Protection = "speculation"
	// Seal is memory whose mapping can't be changed any more, by mseal(2).
	Seal Protection = "seal"
	// LockOnFault is memory that is locked page by page as it is used, by
	// MLOCK_ONFAULT or MCL_ONFAULT. CRIU would lock, and so fill, all of it.
	LockOnFault Protection = "lock-on-fault"
)

// Protections are all of them, for completion.
func Protections() []Protection { return []Protection{Speculation, Seal, LockOnFault} }

// Describe says in a few words what it is.
func (p Protection) Describe() string {
	switch p {
	case Speculation:
		return "speculative execution is held back"
	case Seal:
		return "sealed memory"
	case LockOnFault:
		return "memory that is locked when it is used"
	default:
		return ""
	}
}

// ParseProtection reads a name.
func ParseProtection(name string) (Protection, error) {
	if p := Protection(name); slices.Contains(Protections(), p) {
		return p, nil
	}
	return "", fmt.Errorf("protection %q: want one of %v", name, Protections())
}

// lost refuses what would lose a protection, or notes it if that is accepted.
func (l *look) lost(p *process, what Protection, text string) {
	then := "when it comes back it has that no more"
	if what == LockOnFault {
		then = "when it comes back all of it is locked, and so filled"
	}
	if slices.Contains(l.opt.Accept, what) {
		l.note(who(p.pid, 0, p.name)+" "+text+": "+then, "")
		return
	}
	l.refuse(p, text, fmt.Sprintf("%s; allow that by --accept-lost %s, or have the program do without", then, what))
}

// protections judges by the status of each thread: PR_SET_SPECULATION_CTRL is for the
// thread that calls it, and those that it starts.
func (l *look) protections(p *process) error {
	for _, t := range p.threads {
		status := p.status
		if t.tid != p.pid {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", p.pid, t.tid))
			if err != nil {
				continue // it has ended
			}
			status = parseStatus(string(b))
		}
		if key, value := l.speculation(status); key != "" {
			text := "holds back speculative execution (" + key + ": " + value + ")"
			if t.tid != p.pid {
				text += fmt.Sprintf(" in thread %d (%s)", t.tid, t.name)
			}
			l.lost(p, Speculation, text)
			return nil
		}
	}
	return nil
}

// speculation is the line of a status by which a thread asked to hold back speculative
// execution; empty if none does. The values are those of fs/proc/array.c, task_seccomp:
// "thread mitigated" and "thread force mitigated" are what PR_SET_SPECULATION_CTRL asked
// for, as are "conditional disabled" and its like for branches.
func (l *look) speculation(status map[string]string) (key, value string) {
	for _, key := range []string{"Speculation_Store_Bypass", "SpeculationIndirectBranch"} {
		value := status[key]
		asked := strings.Contains(value, "thread mitigated") || strings.Contains(value, "thread force mitigated") ||
			value == "conditional disabled" || value == "conditional force disabled"
		if asked && !l.everywhere(key, value) {
			return key, value
		}
	}
	return "", ""
}

// everywhere tells whether this process, which asked for nothing, has the same: then it
// is the host's way.
func (l *look) everywhere(key, value string) bool {
	b, err := os.ReadFile("/proc/self/status")
	return err == nil && parseStatus(string(b))[key] == value
}

// memory judges by the flags of the mappings, which are read only if there can be any.
func (l *look) memory(p *process) error {
	locked, _, _ := strings.Cut(p.status["VmLck"], " ")
	if n, _ := strconv.Atoi(locked); n == 0 && !sealsKnown() {
		return nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", p.pid))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	flags := mappingFlags{}
	if err := flags.read(bufio.NewReader(f)); err != nil {
		return err
	}
	if flags.sealed != "" {
		l.lost(p, Seal, "has sealed memory at "+flags.sealed)
	}
	if flags.onFault != "" {
		l.lost(p, LockOnFault, "has memory at "+flags.onFault+" that is locked when it is used (MLOCK_ONFAULT)")
	}
	if flags.mappings > 0 && flags.locked == flags.mappings {
		l.note(who(p.pid, 0, p.name)+" has all of its memory locked: what it maps after it has come back is not locked by itself (MCL_FUTURE)",
			"have the program call mlockall again")
	}
	return nil
}
