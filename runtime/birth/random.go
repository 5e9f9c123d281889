package birth

import (
	"context"
	"slices"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/template"
)

// remarkRepeats notes what random numbers an app has in common with others. What clones
// have is known already.
func (b *Birth) remarkRepeats(ctx context.Context, a *engine.App) error {
	if b.Images != nil {
		remarkNote(a, source.Repeats(b.Images.Repeats, source.Cloned))
		return nil
	}
	if err := b.Source.Checked(); err != nil {
		return err
	}
	if b.Source.Manifest.Processes == 0 {
		return nil
	}
	files, err := openfile.ReadSaved(ctx, b.Source.Dir.Images())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(files, func(f openfile.Saved) bool { return template.MayRepeat(f.Name) }) {
		return nil // most apps: to look at all of the images takes longer
	}
	info, err := b.Source.Inspect(ctx)
	if err != nil {
		return err
	}
	remarkNote(a, source.Repeats(template.Repeats(info), source.Restored))
	return nil
}

// remarkNote is Remark for a note that there may not be.
func remarkNote(a *engine.App, n *app.Note) {
	if n != nil {
		a.Remark(n.Text, n.Remedy)
	}
}
