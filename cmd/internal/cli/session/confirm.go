package session

import (
	"bufio"
	"fmt"
	"strings"
)

// Confirm asks at the terminal whether something is really to be done. Returns a *[UsageError] with the
// text of otherwise if there is no terminal, and a *[ExitError] if the answer is not yes.
func (s *Session) Confirm(question, otherwise string) error {
	if !s.World.Terminal.Is(s.World.In) {
		return Usagef("there is no terminal to ask at: %s", otherwise)
	}
	fmt.Fprintf(s.World.Err, "%s [y/N] ", question)
	answer, _ := bufio.NewReader(s.World.In).ReadString('\n') // at the end of the input there is none
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return &ExitError{Code: Failed, Text: "nothing was done"}
}
