package output

import (
	"fmt"
	"strings"

	"github.com/snapctl/snapctl/runtime/api"
)

// Step says what is being done, and how much of it is done.
func Step(p *api.Progress) string {
	text := p.GetStep()
	if done, total := p.GetDoneBytes(), p.GetTotalBytes(); total > 0 {
		text += fmt.Sprintf(" %d %% of %s", 100*done/total, Size(total))
	} else if done > 0 {
		text += " " + Size(done)
	}
	return text
}

// CloneStep says what is being done to which of the clones.
func CloneStep(p *api.CloneProgress) string {
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
