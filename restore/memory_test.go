package restore

import (
	"path"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/snapshot/memory"
)

// CRIU gives what it inherits for any file of the app whose path is "/" and the key:
// so no path may be that.
func TestMemoryKeyIsNoPath(t *testing.T) {
	key := memoryKey(memory.ID("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"))
	qt.Assert(t, qt.Not(qt.Equals(path.Clean("/"+key), "/"+key)))
	qt.Assert(t, qt.Not(qt.Equals(key, memoryKey("1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"))))
}
