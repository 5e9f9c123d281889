package clones

import (
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

func TestCloneStep(t *testing.T) {
	qt.Check(t, qt.Equals(cloneStep(&api.CloneProgress{Step: "prepare"}), "prepare"))
	qt.Check(t, qt.Equals(cloneStep(&api.CloneProgress{Done: 1, Total: 2, Name: "web-2", Step: "start"}), "1 of 2 clones, web-2: start"))
}
