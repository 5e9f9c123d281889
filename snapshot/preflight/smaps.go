package preflight

import (
	"bufio"
	"errors"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mappingFlags is what the VmFlags of /proc/PID/smaps tell, see
// Documentation/filesystems/proc.rst.
type mappingFlags struct {
	sealed, onFault string // the addresses of the first such mapping
	// mappings are those that can be locked, locked those of them that are.
	mappings, locked int
}

func (m *mappingFlags) read(in *bufio.Reader) error {
	address := ""
	for {
		line, err := in.ReadString('\n')
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok {
			m.add(address, strings.Fields(flags))
		} else if first, _, _ := strings.Cut(line, " "); strings.Contains(first, "-") && !strings.HasSuffix(first, ":") {
			address = first
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *mappingFlags) add(address string, flags []string) {
	has := func(name string) bool { return slices.Contains(flags, name) }
	if has("sl") && m.sealed == "" && !has("de") { // the kernel may seal its own vdso and vvar
		m.sealed = address
	}
	if has("lf") && m.onFault == "" {
		m.onFault = address
	}
	if has("de") {
		return // vvar, vdso and the like are never locked
	}
	m.mappings++
	if has("lo") {
		m.locked++
	}
}

// sealsKnown tells whether the kernel has mseal(2), which it has since Linux 6.10.
func sealsKnown() bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	for i, part := range strings.SplitN(release, ".", 3) {
		n := 0
		for _, c := range part {
			if c < '0' || c > '9' {
				break
			}
			n = n*10 + int(c-'0')
		}
		switch i {
		case 0:
			major = n
		case 1:
			minor = n
		}
	}
	return major > 6 || major == 6 && minor >= 10
}
