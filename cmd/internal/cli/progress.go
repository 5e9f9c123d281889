package cli

import (
	"fmt"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// progress is a line on the terminal that says what is being done.
type progress struct {
	s     *session
	name  string
	shown bool
}

func (s *session) progress(name string) *progress { return &progress{s: s, name: name} }

// tell shows a step. It does nothing unless standard error is a terminal.
func (p *progress) tell(step *api.Progress) {
	if !p.s.world.Terminal.Is(p.s.world.Err) {
		return
	}
	text := output.Clean(p.name + ": " + output.Step(step))
	// A line that wraps can't be overwritten.
	if size, err := p.s.world.Terminal.Size(p.s.world.Err); err == nil && size.Columns > 1 {
		if r := []rune(text); len(r) >= int(size.Columns) {
			text = string(r[:size.Columns-1])
		}
	}
	p.write("\r" + text + "\x1b[K") // ECMA-48 EL: erase to the end of the line
	p.shown = true
}

// clear removes the line.
func (p *progress) clear() {
	if p.shown {
		p.write("\r\x1b[K")
		p.shown = false
	}
}

// write ignores errors: nobody can be told of them.
func (p *progress) write(text string) { _, _ = fmt.Fprint(p.s.world.Err, text) }
