package courier

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/runtime/cargo"
)

// differences are what this host has otherwise than the one where a snapshot was saved, or comes from, so
// that an app that is made of it here may fail.
func (c *Courier) differences(got *cargo.Received) (notes []string) {
	there, here := got.Manifest.Origin, c.opt.Origin
	if there.Arch != here.Arch {
		return []string{fmt.Sprintf("it was saved on a processor of another kind, %s, and this host's is %s: no app can be made of it here", there.Arch, here.Arch)}
	}
	if missing := lacking(got.Features, c.features); len(missing) > 0 {
		notes = append(notes, "the processor of this host lacks what the other host's has: "+strings.Join(missing, ", ")+
			"; a program that uses it ends when an app is made of the snapshot here")
	}
	if older(here.Kernel, there.Kernel) {
		notes = append(notes, fmt.Sprintf("it was saved on Linux %s, and this host has %s, which is older: what is newer in the kernel an app would not find here", there.Kernel, here.Kernel))
	}
	if here.CRIUVersion < there.CRIUVersion {
		notes = append(notes, fmt.Sprintf("it was saved by CRIU %s, and this host has %s, which is older: install the newer one before an app is made of it here",
			criuVersion(there.CRIUVersion), criuVersion(here.CRIUVersion)))
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
