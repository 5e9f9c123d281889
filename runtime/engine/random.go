package engine

import (
	"context"
	"slices"
	"strings"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/template"
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

// Inspect looks into the images of a snapshot that has been checked. Each copy of an app
// that had ended starts its program anew: it has none.
func (s *Source) Inspect(ctx context.Context) (*inspect.Info, error) {
	if s.Manifest.Processes == 0 {
		return &inspect.Info{}, nil
	}
	return inspect.Read(ctx, s.Dir.Images(), s.Manifest.BaseNames()...)
}

// remarkRepeats notes what random numbers an app has in common with others. What clones
// have is known already.
func (b *Birth) remarkRepeats(ctx context.Context, a *App) error {
	if b.Images != nil {
		a.remarkNote(Repeats(b.Images.Repeats, Cloned))
		return nil
	}
	if err := b.Source.Checked(); err != nil {
		return err
	}
	if b.Source.Manifest.Processes == 0 {
		return nil
	}
	files, err := image.SavedFiles(ctx, b.Source.Dir.Images())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(files, func(f image.SavedFile) bool { return template.MayRepeat(f.Name) }) {
		return nil // most apps: to look at all of the images takes longer
	}
	info, err := b.Source.Inspect(ctx)
	if err != nil {
		return err
	}
	a.remarkNote(Repeats(template.Repeats(info), Restored))
	return nil
}

// remarkNote is remark for a note that there may not be.
func (a *App) remarkNote(n *app.Note) {
	if n != nil {
		a.Remark(n.Text, n.Remedy)
	}
}
