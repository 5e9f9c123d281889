package output

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/api"
)

// A table has a column for what would not start only if there is something.
func TestWouldNotStart(t *testing.T) {
	broken := exampleTemplate()
	broken.WouldNotStart = []*api.Obstacle{{Path: "/srv/one", Reason: "gone", Remedy: "put it back"}, {Reason: "damaged"}}
	for name, one := range map[string]struct {
		well, ill Document
		cell      string
	}{
		"ps":        {NewAppList([]*api.App{heldApp(), stoppedApp()}), NewAppList([]*api.App{stuckApp(), stoppedApp()}), "/data/users"},
		"snapshots": {NewSnapshotList([]*api.Snapshot{exampleSnapshot()}), NewSnapshotList([]*api.Snapshot{exampleSnapshot(), deltaSnapshot()}), "snapshot is damaged: images/core-1.img: missing"},
		"templates": {NewTemplateList([]*api.Template{exampleTemplate()}), NewTemplateList([]*api.Template{exampleTemplate(), broken}), "/srv/one and 1 more"},
		"show":      {NewAppDetail(heldApp()), NewAppDetail(stuckApp()), "it is a directory now: put it back"},
		"template":  {NewTemplateDetail(exampleTemplate()), NewTemplateDetail(broken), "gone: put it back; damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			table := func(doc Document) string {
				var b bytes.Buffer
				qt.Assert(t, qt.IsNil(Write(&b, AsTable, at, doc)))
				return b.String()
			}
			qt.Check(t, qt.IsFalse(strings.Contains(strings.ToLower(table(one.well)), "would not start")))
			ill := table(one.ill)
			qt.Check(t, qt.StringContains(strings.ToLower(ill), "would not start"))
			qt.Check(t, qt.StringContains(ill, one.cell))
		})
	}
}
