package preflight

import (
	"bufio"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
)

const smaps = `5600-5700 r-xp 00000000 00:1a 12  /bin/true
Rss:                   4 kB
VmFlags: rd ex mr mw me sl 
7000-7100 rw-p 00000000 00:00 0 
Rss:                   4 kB
VmFlags: rd wr mr mw me lo ac lf 
7f00-7f10 r-xp 00000000 00:00 0   [vdso]
VmFlags: rd ex mr mw me de sl 
`

func TestMappingFlags(t *testing.T) {
	var m mappingFlags
	qt.Assert(t, qt.IsNil(m.read(bufio.NewReader(strings.NewReader(smaps)))))
	qt.Assert(t, qt.Equals(m, mappingFlags{sealed: "5600-5700", onFault: "7000-7100", mappings: 2, locked: 1}))

	m = mappingFlags{}
	qt.Assert(t, qt.IsNil(m.read(bufio.NewReader(strings.NewReader(strings.ReplaceAll(smaps, " sl", ""))))))
	qt.Assert(t, qt.Equals(m, mappingFlags{onFault: "7000-7100", mappings: 2, locked: 1}))
}

func FuzzMappingFlags(f *testing.F) {
	f.Add(smaps)
	f.Fuzz(func(t *testing.T, text string) {
		var m mappingFlags
		qt.Assert(t, qt.IsNil(m.read(bufio.NewReader(strings.NewReader(text)))))
		qt.Assert(t, qt.IsTrue(m.locked <= m.mappings))
	})
}
