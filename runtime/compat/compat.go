// Package compat tells what one host has otherwise than another one, so that an app that was saved on the one may
// fail on the other.
package compat

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/snapshot"
)

// Host is what an app finds on a host.
type Host struct {
	snapshot.Origin

	// Features are what the processor can do that programs may use, as /proc/cpuinfo names it. None: it is not
	// known.
	Features []string `json:"features,omitempty"`
}

// Here is this host, whose snapshots have an origin.
func Here(origin snapshot.Origin) Host { return Host{origin, features()} }

// Refusal tells why nothing that was saved on a host can run on this one; "": nothing is known.
func (h *Host) Refusal(there Host) string {
	if there.Arch != h.Arch {
		return fmt.Sprintf("it was saved on a processor of another kind, %s, and this host's is %s", there.Arch, h.Arch)
	}
	return ""
}

// Lacks are the features of another host's processor that this one's lacks.
func (h *Host) Lacks(there Host) []string { return lacking(there.Features, h.Features) }

// Notes are what this host has otherwise than the one where an app was saved, so that it may fail here.
func (h *Host) Notes(there Host) (notes []string) {
	if missing := h.Lacks(there); len(missing) > 0 {
		notes = append(notes, "the processor of this host lacks what the other host's has: "+strings.Join(missing, ", ")+
			"; a program that uses it ends when an app is made of the snapshot here")
	}
	if older(h.Kernel, there.Kernel) {
		notes = append(notes, fmt.Sprintf("it was saved on Linux %s, and this host has %s, which is older: what is newer in the kernel an app would not find here", there.Kernel, h.Kernel))
	}
	if h.CRIUVersion < there.CRIUVersion {
		notes = append(notes, fmt.Sprintf("it was saved by CRIU %s, and this host has %s, which is older: install the newer one before an app is made of it here",
			criuVersion(there.CRIUVersion), criuVersion(h.CRIUVersion)))
	}
	return notes
}

// criuVersion is a version as CRIU counts it, such as 40201, as people write it.
func criuVersion(v int) string { return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100) }

// older tells whether a kernel release is older than another one.
func older(one, than string) bool {
	var a, b [2]int
	_, err1 := fmt.Sscanf(one, "%d.%d", &a[0], &a[1])
	_, err2 := fmt.Sscanf(than, "%d.%d", &b[0], &b[1])
	return err1 == nil && err2 == nil && slices.Compare(a[:], b[:]) < 0
}

// mostFeatures bounds what another host says of its processor.
const mostFeatures = 1000

// lacking are those of the features of one processor that another one lacks, and that programs may use.
func lacking(there, here []string) (missing []string) {
	for _, f := range there[:min(len(there), mostFeatures)] {
		if usable(f) && !slices.Contains(here, f) {
			missing = append(missing, f)
		}
	}
	return missing
}

// families are instructions that programs choose by what the processor has: names of flags, or how they
// begin (arch/x86/include/asm/cpufeatures.h, arch/arm64/kernel/cpuinfo.c).
var families = []string{ //nolint:gochecknoglobals // a constant
	"sse", "pni", "ssse3", "avx", "amx", "fma", "f16c", "bmi", "abm", "popcnt", "movbe", "aes", "vaes", "pclmulqdq", "vpclmulqdq", "sha", "gfni",
	"adx", "rdrand", "rdseed", "rdpid", "rdtscp", "xsave", "fsgsbase", "erms", "fsrm", "rtm", "clwb", "clflushopt", "movdir", "serialize", "waitpkg", "pku", "user_shstk",
	"asimd", "sve", "sme", "atomics", "crc32", "pmull", "lrcpc", "dcpop", "flagm", "paca", "pacg", "bti", "i8mm", "bf16",
}

// usable tells whether programs may use a feature.
func usable(feature string) bool {
	return len(feature) < 64 && slices.ContainsFunc(families, func(f string) bool { return strings.HasPrefix(feature, f) })
}

// features are those of this host's processor. Where they can't be read none are known.
func features() []string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // only read from
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		if key = strings.TrimSpace(key); key == "flags" || key == "Features" {
			return slices.DeleteFunc(strings.Fields(value), func(f string) bool { return !usable(f) })
		}
	}
	return nil
}
