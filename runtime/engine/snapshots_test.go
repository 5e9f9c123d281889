package engine

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/template"
)

func TestARestoredAppKeepsItsMachineID(t *testing.T) {
	qt.Check(t, qt.Equals(sameAgain().MachineID, template.MachineIDKeep))
}
