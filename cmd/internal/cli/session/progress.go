package session

import (
	"fmt"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// Progress is a line on the terminal that says what is being done.
type Progress struct {
	s     *Session
	name  string
	shown bool
}

// Progress returns a line about what is done to the app or snapshot called name. Nothing is shown yet.
func (s *Session) Progress(name string) *Progress { return &Progress{s: s, name: name} }

// Tell shows a step. It does nothing unless standard error is a terminal.
func (p *Progress) Tell(step *api.Progress) {
	if !p.s.World.Terminal.Is(p.s.World.Err) {
		return
	}
	text := output.Clean(p.name + ": " + output.Step(step))
	// A line that wraps can't be overwritten.
	if size, err := p.s.World.Terminal.Size(p.s.World.Err); err == nil && size.Columns > 1 {
		if r := []rune(text); len(r) >= int(size.Columns) {
			text = string(r[:size.Columns-1])
		}
	}
	p.write("\r" + text + "\x1b[K") // ECMA-48 EL: erase to the end of the line
	p.shown = true
}

// Clear removes the line.
func (p *Progress) Clear() {
	if p.shown {
		p.write("\r\x1b[K")
		p.shown = false
	}
}

// write ignores errors: nobody can be told of them.
func (p *Progress) write(text string) { _, _ = fmt.Fprint(p.s.World.Err, text) }
