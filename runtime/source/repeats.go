package source

import (
	"strings"

	"github.com/snapctl/snapctl/runtime/app"
)

// Copying is how an app is made of a snapshot, for a note.
type Copying string

// How an app is made of a snapshot.
const (
	Cloned   Copying = "in every clone"
	Restored Copying = "in the app that was saved, in this one and in every other that is made of the snapshot"
)

// Repeats notes what random numbers copies of an app have in common, see template.Repeats; nil
// if none are known.
func Repeats(all []string, how Copying) *app.Note {
	if len(all) == 0 {
		return nil
	}
	n := &app.Note{
		Text: "random numbers, and keys and tokens made of them, can be the same " + string(how) + ": these generators go on from the state that was saved: " +
			strings.Join(all, "; "),
		Remedy: "have each clone seed them anew, by `signal` or `run` in the template's rules or by watching /run/snapctl/instance.json: " +
			`see "Random numbers" in TEMPLATES.md`,
	}
	if how == Restored {
		n.Remedy = "have the program seed them anew, when /run/snapctl/instance.json changes or by a command of yours: " + `see "Random numbers" in TEMPLATES.md`
	}
	return n
}
