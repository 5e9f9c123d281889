package clones

import (
	"fmt"
	"strings"

	"github.com/snapctl/snapctl/runtime/api"
)

// cloneStep says what is being done to which of the clones.
func cloneStep(p *api.CloneProgress) string {
	var parts []string
	if p.GetTotal() > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d clones", p.GetDone(), p.GetTotal()))
	}
	switch {
	case p.GetName() != "" && p.GetStep() != "":
		parts = append(parts, p.GetName()+": "+p.GetStep())
	case p.GetStep() != "":
		parts = append(parts, p.GetStep())
	}
	return strings.Join(parts, ", ")
}
