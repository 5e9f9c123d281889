package output

import (
	"fmt"

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
