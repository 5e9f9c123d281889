package sandbox

import (
	"strconv"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestTailOfACommand(t *testing.T) {
	var out tail
	for i := range 1000 {
		_, err := out.Write([]byte(strconv.Itoa(i) + "\n"))
		qt.Assert(t, qt.IsNil(err))
	}
	qt.Check(t, qt.Equals(len(out), 1<<10))
	qt.Check(t, qt.IsTrue(strings.HasSuffix(string(out), "998\n999\n")))
}
